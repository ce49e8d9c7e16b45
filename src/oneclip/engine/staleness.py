"""Detection of changes in the modules that a plan was built from.

Compared at each call, for every module: its class and the class's forward, its attributes, children and hooks; for
every tensor: its identity, its address, its version (which every in-place operation raises) and a sample of its
numbers (which shows writes that raise no version: through `.data`, `set_` or shared memory). Numbers on a GPU are not
sampled, because the processor would wait for the GPU at each call.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn

# evenly spaced numbers of each tensor; a write through `.data` that misses all of them is not detected
SAMPLED_NUMBERS = 32


class ModuleFingerprint:
    """State of some modules and their tensors at one time.

    Args:
        modules: each with all modules below it.
        alone: each without the modules below it.
    """

    def __init__(self, modules: Iterable[nn.Module], alone: Iterable[nn.Module] = ()) -> None:
        every = list({id(m): m for m in [*alone, *(m for root in modules for m in root.modules())]}.values())
        self.modules = [(m, type(m), [type(m).forward, *_state(m)]) for m in every]
        self.tensor_dicts = [
            (tensors, list(tensors.values())) for m in every for tensors in (m._parameters, m._buffers)
        ]
        tensors = {id(t): t for _, found in self.tensor_dicts for t in found if t is not None}
        self.tensors = [(t, _tensor_state(t)) for t in tensors.values()]
        on_cpu = [t for t in tensors.values() if is_plain_tensor(t) and t.numel() and t.device.type == "cpu"]
        self.views = [_sample(t) for t in on_cpu]
        self.samples = [view.clone() for view in self.views]

    def is_current(self) -> bool:
        """Return whether nothing has changed since the fingerprint was taken."""
        return (
            all(
                type(m) is kind
                and len(now := [kind.forward, *_state(m)]) == len(then)
                and all(map(is_, now, then))
                for m, kind, then in self.modules
            )
            and all(
                len(tensors) == len(then) and all(map(is_, tensors.values(), then))
                for tensors, then in self.tensor_dicts
            )
            and all(_tensor_state(t) == then for t, then in self.tensors)
            and all(torch.equal(view, then) for view, then in zip(self.views, self.samples, strict=True))
        )

    def has_hooks(self) -> bool:
        """Return whether a hook is registered on one of the modules; a plan would not call it."""
        return any(m._forward_hooks or m._forward_pre_hooks for m, _, _ in self.modules)


def _state(module: nn.Module) -> list[Any]:
    return [*vars(module).values(), *module._modules.values()]


def is_plain_tensor(tensor: Tensor) -> bool:
    """Return whether a tensor is dense, and not of a subclass with a meaning of its own."""
    return type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided


def _tensor_state(tensor: Tensor) -> tuple[Any, ...]:
    """Return version, address, dtype and shape; a tensor made in inference mode has no version."""
    if not is_plain_tensor(tensor):
        return ()  # such a tensor never gets a plan
    version = -1 if tensor.is_inference() else tensor._version
    return version, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def _sample(tensor: Tensor) -> Tensor:
    """Return a view of some numbers of a tensor, evenly spaced in memory."""
    count = min(SAMPLED_NUMBERS, tensor.numel())
    with torch.no_grad():
        return tensor.detach().as_strided((count,), (tensor.numel() // count,), tensor.storage_offset())
