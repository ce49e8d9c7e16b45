"""A configuration to a model whose weights have a place but no values yet: what `load_into` fills."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

from oneclip.config import ModelCfg
from oneclip.errors import OneCLIPError
from oneclip.model import build_model

_DEFAULT_DTYPE = threading.RLock()


def build_blank(cfg: ModelCfg, build: Callable[[ModelCfg], nn.Module] = build_model) -> Any:
    """A model of an architecture, without the random numbers that a checkpoint would replace anyway.

    They take far longer to draw than a checkpoint takes to read: seconds for ViT-L. Buffers, which are computed
    rather than drawn (causal masks, relative positions, rotary tables), are there; parameters hold no values.

    Args:
        cfg: the architecture.
        build: what makes a model of it.

    Returns:
        What `build` gives.
    """
    place = torch.empty(0).device
    try:
        with _NoRandomNumbers(place), _weightless_parameters():
            model = build(cfg)
    except OneCLIPError:
        raise
    except (NotImplementedError, RuntimeError):
        model = None
    if model is None or any(buffer.device != place for buffer in model.buffers()):
        # a package that needs values while it builds: it gets them, and takes its time
        with _NoRandomNumbers(place):
            return build(cfg)
    _give_place(model)
    return model


@contextmanager
def float32_by_default() -> Iterator[None]:
    """Inside, tensors are made in fp32 whatever `torch.set_default_dtype` says: tables that are computed, too.

    That setting is one of the process, so that one thread is in here at a time.
    """
    with _DEFAULT_DTYPE:
        own = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(own)


def outline(build: Callable[[], nn.Module]) -> nn.Module:
    """What `build` makes, all of it on the `meta` device: names, types and shapes, and no memory for numbers."""
    meta = torch.device("meta")
    try:
        with meta, _NoNumbers():
            return build()
    except OneCLIPError:
        raise
    except (NotImplementedError, RuntimeError):  # a package that mixes tensors of the two kinds
        with _NoRandomNumbers(meta), meta:
            return build()


class _NoNumbers(TorchFunctionMode):
    """Inside, where all tensors are on the `meta` device, nothing computes what initialisation would.

    On that device each of its steps goes through Python, and all of them take longer than the rest of a build.
    """

    STEPS = frozenset(
        (
            *(Tensor.normal_, Tensor.uniform_, Tensor.erfinv_, Tensor.clamp_),
            *(Tensor.mul_, Tensor.add_, Tensor.fill_, Tensor.zero_, Tensor.copy_),
        )
    )

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if function in self.STEPS or getattr(function, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


class _NoRandomNumbers(TorchFunctionMode):
    """Inside, whatever draws numbers leaves its tensor as it is.

    Args:
        place: where parameters say they are even if they are on `meta`, so that buffers computed beside them are real.
    """

    IN_PLACE = (Tensor.normal_, Tensor.uniform_)
    DEVICE = Tensor.device.__get__

    def __init__(self, place: torch.device) -> None:
        super().__init__()
        self.place = place

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if function in self.IN_PLACE or getattr(function, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        if function == self.DEVICE and isinstance(args[0], nn.Parameter):
            return self.place
        if function is torch.randn:
            function = torch.empty
        if not _writes(function, args):  # some towers run a part of themselves, to learn its shapes
            args, kwargs = _on_one_device(args, kwargs)
        return function(*args, **kwargs)


def _writes(function: Callable[..., Any], args: tuple[Any, ...]) -> bool:
    """Whether a function may write into a tensor that has values."""
    name = getattr(function, "__name__", "")
    in_place = name.endswith("_") and not name.endswith("__")
    writes = in_place or name == "__setitem__" or name.startswith("__i")
    return writes and bool(args) and isinstance(args[0], Tensor) and not args[0].is_meta


def _on_one_device(args: Any, kwargs: Any) -> Any:
    """Arguments of which some are on the `meta` device, all there; others as they are."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if len({tensor.is_meta for tensor in tensors}) < 2:
        return args, kwargs
    return tree_map_only(Tensor, lambda tensor: tensor.to("meta"), (args, kwargs))


@contextmanager
def _weightless_parameters() -> Iterator[None]:
    """Inside, parameters of modules are on the `meta` device, where arithmetic costs nothing.

    Packages initialise in many ways, and one pass over the weights of a large tower takes seconds, whatever it writes.
    """
    made: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}  # the originals too, so that no id comes again

    def weightless(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if type(parameter) is not nn.Parameter or parameter.is_meta:
            return parameter
        if id(parameter) not in made:  # one that several modules share stays one
            meta = nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
            made[id(parameter)] = parameter, meta
        return made[id(parameter)][1]

    handle = register_module_parameter_registration_hook(weightless)  # type: ignore[arg-type]  # it may give one
    try:
        yield
    finally:
        handle.remove()


def _give_place(model: nn.Module) -> None:
    """Move parameters from the `meta` device to the default one, as memory that nobody has written to."""
    placed: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is None or not parameter.is_meta:
                continue
            if id(parameter) not in placed:
                memory = torch.empty(parameter.shape, dtype=parameter.dtype)
                placed[id(parameter)] = nn.Parameter(memory, parameter.requires_grad)
            module._parameters[name] = placed[id(parameter)]
