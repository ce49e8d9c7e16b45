"""Build a model without initializing its weights, before a checkpoint is loaded into it."""

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


def build_uninitialized(cfg: ModelCfg, build: Callable[[ModelCfg], nn.Module] = build_model) -> Any:
    """Build a model without drawing the random weights that a checkpoint would replace.

    Drawing them takes much longer than reading a checkpoint: seconds for ViT-L. While `build` runs, parameters are on
    the `meta` device, where initialization does nothing. Buffers are computed as usual (causal masks, relative
    positions, rotary tables). If a tower needs the values of its parameters while it is built, the model is built
    again and initialized as usual.

    The state of the random generator does not change.

    Args:
        cfg: the architecture.
        build: builds a model from it; called again if it needs values.

    Returns:
        The result of `build`. Its parameters are in memory, and have arbitrary values.
    """
    with torch.random.fork_rng(devices=_default_cuda_device()):
        try:
            with _MetaParameterMode(torch.empty(0).device), _parameters_on_meta():
                model = build(cfg)
        except (
            Exception
        ):  # the meta device raises various errors; an error of the configuration is raised again
            return build(cfg)
        if _has_meta_tensors(model):
            return build(cfg)
    _allocate_parameters(model)
    return model


@contextmanager
def float32_by_default() -> Iterator[None]:
    """Create tensors in fp32 inside this context, including computed tables, whatever the default dtype is.

    The default dtype belongs to the process, so only one thread can be in this context at a time.
    """
    with _DEFAULT_DTYPE:
        own = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(own)


def build_on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """Run `build` on the `meta` device: the module has names, dtypes and shapes, but no memory for values."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"), _NoInitOnMeta():
        return build()


class _NoInitOnMeta(TorchFunctionMode):
    """Mode that skips initialization while all tensors are on the `meta` device.

    On that device each step of initialization goes through Python, which takes longer than the rest of a build.
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


def _default_cuda_device() -> list[torch.device]:
    """Return the CUDA device on which tensors are created by default, if any; its random generator is used too."""
    device = torch.empty(0).device
    return [device] if device.type == "cuda" else []


class _MetaParameterMode(TorchFunctionMode):
    """Mode that computes with parameters on `meta` and real tensors together; the results are on `meta`.

    Some towers run a part of themselves to get its shapes, and some compute tables on the device of a parameter.

    Args:
        device: the device that parameters on `meta` report.
    """

    DEVICE = Tensor.device.__get__

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if function == self.DEVICE and isinstance(args[0], nn.Parameter) and args[0].is_meta:
            return self.device
        if getattr(function, "__module__", None) == "torch.nn.init":
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:  # it would do nothing there, slowly
                return tensor
        if getattr(function, "__name__", "") != "__get__" and not _writes(function, args):
            args, kwargs = _on_one_device(args, kwargs)
        return function(*args, **kwargs)


def _writes(function: Callable[..., Any], args: tuple[Any, ...]) -> bool:
    """Report whether a function may write into a tensor that has values."""
    name = getattr(function, "__name__", "")
    in_place = name.endswith("_") and not name.endswith("__")
    writes = in_place or name == "__setitem__" or name.startswith("__i")
    return writes and bool(args) and isinstance(args[0], Tensor) and not args[0].is_meta


def _on_one_device(args: Any, kwargs: Any) -> Any:
    """Move all tensors to the `meta` device if some of them are on it."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if len({tensor.is_meta for tensor in tensors}) < 2:
        return args, kwargs
    return tree_map_only(Tensor, lambda tensor: tensor.to("meta"), (args, kwargs))


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Move parameters that this thread registers in modules to the `meta` device."""
    moved: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}  # keeps the originals, so that no id is reused
    builder = threading.get_ident()

    def to_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if type(parameter) is not nn.Parameter or parameter.is_meta or threading.get_ident() != builder:
            return parameter
        if id(parameter) not in moved:  # a parameter of several modules stays shared
            meta = nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
            moved[id(parameter)] = parameter, meta
        return moved[id(parameter)][1]

    handle = register_module_parameter_registration_hook(to_meta)  # type: ignore[arg-type]  # it may return a parameter
    try:
        yield
    finally:
        handle.remove()


def _has_meta_tensors(model: nn.Module) -> bool:
    """Report whether a buffer or attribute was computed from parameters, so that it has no values."""
    others = (
        tensor for module in model.modules() for tensor in (*module._buffers.values(), *vars(module).values())
    )
    return any(isinstance(tensor, Tensor) and tensor.is_meta for tensor in others)


def _allocate_parameters(model: nn.Module) -> None:
    """Move parameters from the `meta` device to the default device, without writing values."""
    allocated: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is None or not parameter.is_meta:
                continue
            if id(parameter) not in allocated:
                memory = torch.empty(parameter.shape, dtype=parameter.dtype)
                allocated[id(parameter)] = nn.Parameter(memory, parameter.requires_grad)
            module._parameters[name] = allocated[id(parameter)]
