"""Modules to an answer, at each call, whether they are still what a plan was made of.

Looked at are, for every module: its class and that class's forward, its attributes, its children, its hooks; for every
tensor: that it is the same one, at the same place in memory, its version (which every in-place operation raises) and a
sample of its numbers (which shows what was written behind its version's back, by way of `.data`, `set_` or a shared
memory). Numbers on a GPU are not sampled: the processor would wait for it at each call.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn

# numbers of each tensor, evenly spread; a write through `.data` that misses all of them goes unseen
SAMPLE = 32


class Watch:
    """What some modules and their tensors are now.

    Args:
        modules: each with all that is below it.
        alone: each by itself, without what is below it.
    """

    def __init__(self, modules: Iterable[nn.Module], alone: Iterable[nn.Module] = ()) -> None:
        every = list({id(m): m for m in [*alone, *(m for root in modules for m in root.modules())]}.values())
        self.modules = [(m, type(m), [type(m).forward, *_things(m)]) for m in every]
        self.owners = [(owner, list(owner.values())) for m in every for owner in _owners(m)]
        tensors = {id(t): t for _, found in self.owners for t in found if t is not None}
        self.tensors = [(t, _facts(t)) for t in tensors.values()]
        here = [t for t in tensors.values() if is_ordinary(t) and t.numel() and t.device.type == "cpu"]
        self.views = [_sample(t) for t in here]
        self.sampled = [view.clone() for view in self.views]

    def holds(self) -> bool:
        """Whether nothing has changed since."""
        return (
            all(
                type(m) is kind
                and len(now := [kind.forward, *_things(m)]) == len(then)
                and all(map(is_, now, then))
                for m, kind, then in self.modules
            )
            and all(
                len(owner) == len(then) and all(map(is_, owner.values(), then)) for owner, then in self.owners
            )
            and all(_facts(t) == then for t, then in self.tensors)
            and self._same_numbers()
        )

    def hooked(self) -> bool:
        """Whether a hook is registered on one of the modules: a plan would not call it."""
        return any(m._forward_hooks or m._forward_pre_hooks for m, _, _ in self.modules)

    def _same_numbers(self) -> bool:
        return all(torch.equal(view, then) for view, then in zip(self.views, self.sampled, strict=True))


def _things(module: nn.Module) -> list[Any]:
    return [*vars(module).values(), *module._modules.values()]


def _owners(module: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    return module._parameters, module._buffers


def is_ordinary(tensor: Tensor) -> bool:
    """Whether a tensor is numbers in a row, and no subclass with a meaning of its own."""
    return type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided


def _facts(tensor: Tensor) -> tuple[Any, ...]:
    """Version, place, kind and shape; a tensor made in inference mode has no version."""
    if not is_ordinary(tensor):
        return ()  # no plan is made of it
    version = -1 if tensor.is_inference() else tensor._version
    return version, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def _sample(tensor: Tensor) -> Tensor:
    """A view of some numbers of a tensor, evenly spread over its place in memory."""
    count = min(SAMPLE, tensor.numel())
    with torch.no_grad():
        return tensor.detach().as_strided((count,), (tensor.numel() // count,), tensor.storage_offset())
