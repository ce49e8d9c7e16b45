"""Exponential moving average of the weights, used for evaluation and export."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from oneclip.errors import CheckpointMismatchError, ConfigError
from oneclip.train.checkpointing.checkpointer import copy_tensors
from oneclip.train.distributed.parallel import is_dtensor

UPDATES = ".updates"  # tensor names of a module never begin with a dot


class Ema:
    """Exponential moving average of a module's trainable parameters and of its floating buffers, in fp32.

    After each step `mean += (1 - d) (weights - mean)`, with d = min(decay, (1 + t) / (10 + t)) after t earlier
    updates, so that random initial weights lose their influence fast. Statistics of batch norms are averaged too.
    Frozen tensors, and tensors outside the state dict, are not averaged and take no memory. The average of a sharded
    module is sharded.

    Args:
        module: on its device, and already sharded if it will be.
        decay: in [0, 1).

    Raises:
        ConfigError: if the decay is out of range.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ConfigError(f"the decay of the moving average is {decay}; expected a number in [0, 1)")
        self.decay = decay
        self._weights = _averaged(module)
        self._means = {name: _fp32(weight).clone() for name, weight in self._weights.items()}
        self._updates = torch.zeros((), dtype=torch.int64)

    @torch.no_grad()
    def update(self) -> None:
        """Update the averages after an optimizer step."""
        done = int(self._updates)
        share = 1 - min(self.decay, (1 + done) / (10 + done))
        for names in self._foreach_groups():
            weights = [_fp32(self._weights[name]) for name in names]
            torch._foreach_lerp_([self._means[name] for name in names], weights, share)
        self._updates += 1

    def state_dict(self) -> dict[str, Tensor]:
        """Return the averages by tensor name, and the number of updates, without copying."""
        return {**self._means, UPDATES: self._updates}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load the result of `state_dict`; full tensors are sharded where needed.

        Raises:
            CheckpointMismatchError: if names or shapes differ.
        """
        own = self.state_dict()
        missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        both = own.keys() & state.keys()
        reshaped = [
            (name, tuple(state[name].shape), tuple(own[name].shape))
            for name in sorted(both)
            if state[name].shape != own[name].shape
        ]
        if missing or unexpected or reshaped:
            hint = "Resume with the same trainable parameters."
            raise CheckpointMismatchError("the moving average", missing, unexpected, reshaped, hint)
        copy_tensors(own, state)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Replace the weights of the module by their averages, for evaluation or export.

        Copies only shards, and weights that are not fp32. Do not train inside. With a sharded module, enter it before
        the weights are gathered.
        """
        before = {name: _replace(weight, self._means[name]) for name, weight in self._weights.items()}
        try:
            yield
        finally:
            for name, weight in self._weights.items():
                _replace(weight, before[name])

    def _foreach_groups(self) -> list[list[str]]:
        """Return names of tensors, grouped so that one foreach operation can take each group."""
        groups: dict[Any, list[str]] = {}
        for name, weight in self._weights.items():
            groups.setdefault((is_dtensor(weight), weight.device), []).append(name)
        return list(groups.values())


def _averaged(module: nn.Module) -> dict[str, Tensor]:
    """Return the tensors to average. A tensor with several names appears once."""
    kept = module.state_dict(keep_vars=True)
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    found = {**parameters, **dict(module.named_buffers())}
    return {name: tensor for name, tensor in found.items() if name in kept and tensor.is_floating_point()}


@torch.no_grad()
def _replace(weight: Tensor, values: Tensor) -> Tensor:
    """Set the values of a tensor, and return its old ones."""
    if is_dtensor(weight):  # FSDP2 keeps references to the memory
        before = weight.detach().clone()
        weight.copy_(values)
        return before
    before, weight.data = weight.data, values.data.to(weight.dtype)
    return before


def _fp32(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.float32)
