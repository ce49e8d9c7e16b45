"""Build a model without initialising its weights, for `load_into` to fill."""

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
from oneclip.model import build_model

_DEFAULT_DTYPE = threading.RLock()


def build_blank(cfg: ModelCfg, build: Callable[[ModelCfg], nn.Module] = build_model) -> Any:
    """A model of an architecture, without the random numbers that a checkpoint would replace anyway.

    They take far longer to draw than a checkpoint takes to read: seconds for ViT-L. While `build` runs, parameters
    are on the `meta` device, where an initialiser has nothing to write and nothing to read, however it is written.
    Buffers are computed as ever (causal masks, relative positions, rotary tables). A package that needs values of
    its parameters while it builds cannot have them there: its model is initialised like any other, and takes its time.

    The random generator is afterwards where it was before.

    Args:
        cfg: the architecture.
        build: what makes a model of it; called again if it needs values.

    Returns:
        What `build` gives.
    """
    with torch.random.fork_rng(devices=_generators()):
        try:
            with _MixedDevices(torch.empty(0).device), _weightless_parameters():
                model = build(cfg)
        except Exception:  # the meta device refuses in many ways; a fault of the configuration comes again
            return build(cfg)
        if _computed_without_values(model):
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
    with torch.random.fork_rng(devices=[]), torch.device("meta"), _NoNumbers():
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


def _generators() -> list[torch.device]:
    """The accelerator on which tensors are made by default, whose random generator building would use."""
    place = torch.empty(0).device
    return [place] if place.type == "cuda" else []


class _MixedDevices(TorchFunctionMode):
    """Inside, parameters on `meta` do beside real tensors: what is computed of both is on `meta`, and has no value.

    Some towers run a part of themselves to learn its shapes, and some compute tables on the device of a parameter.

    Args:
        place: where parameters on `meta` say that they are.
    """

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
        if function == self.DEVICE and isinstance(args[0], nn.Parameter) and args[0].is_meta:
            return self.place
        if getattr(function, "__module__", None) == "torch.nn.init":
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:  # where it would write nothing, and take its time
                return tensor
        if getattr(function, "__name__", "") != "__get__" and not _writes(function, args):
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
    """Inside, parameters that this thread gives to modules are on the `meta` device."""
    made: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}  # the originals too, so that no id comes again
    builder = threading.get_ident()

    def weightless(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if type(parameter) is not nn.Parameter or parameter.is_meta or threading.get_ident() != builder:
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


def _computed_without_values(model: nn.Module) -> bool:
    """Whether a tensor that is no parameter was computed from parameters, so that it has no values either."""
    others = (
        tensor for module in model.modules() for tensor in (*module._buffers.values(), *vars(module).values())
    )
    return any(isinstance(tensor, Tensor) and tensor.is_meta for tensor in others)


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
