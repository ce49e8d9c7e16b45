"""Weights in training to their moving average, which is evaluated and exported in their stead."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from oneclip.errors import CheckpointMismatchError, ConfigError
from oneclip.train.checkpointing.state import load_by_name
from oneclip.train.distributed.parallel import is_shard

UPDATES = ".updates"  # no tensor of a module has a name that begins with a dot


class Ema:
    """Exponential moving average of a module's trainable parameters and of its floating buffers, in fp32.

    After each step `mean += (1 - d) (weights - mean)`, with d = min(decay, (1 + t) / (10 + t)) after t earlier
    updates, so that the random weights of the beginning are soon forgotten. Statistics of batch norms are averaged
    along. What is frozen, and what a state dict does not hold, is its own average and costs no memory. A module in
    shards has its average in shards.

    Args:
        module: on its device, and in shards already if it is to be.
        decay: of the average, in [0, 1).

    Raises:
        ConfigError: if the decay is out of its range.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ConfigError(f"the decay of the moving average is {decay}; expected it in [0, 1)")
        self.decay = decay
        self._weights = _averaged(module)
        self._means = {name: _fp32(weight).clone() for name, weight in self._weights.items()}
        self._updates = torch.zeros((), dtype=torch.int64)

    @torch.no_grad()
    def update(self) -> None:
        """Follow the weights, after a step."""
        done = int(self._updates)
        share = 1 - min(self.decay, (1 + done) / (10 + done))
        for names in self._alike():
            weights = [_fp32(self._weights[name]) for name in names]
            torch._foreach_lerp_([self._means[name] for name in names], weights, share)
        self._updates += 1

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by the names that the module gives its tensors, and the number of updates; no copies."""
        return {**self._means, UPDATES: self._updates}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from averages that `state_dict` gave; whole ones may go into shards.

        Raises:
            CheckpointMismatchError: if they are of other tensors.
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
        load_by_name(own, state)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """A stretch in which the module has the averages in place of its weights, for evaluation or export.

        Only shards, and weights that are not in fp32, are copied. Not to be trained in; and of a module in shards, to
        be entered before its weights are gathered.
        """
        before = {name: _replace(weight, self._means[name]) for name, weight in self._weights.items()}
        try:
            yield
        finally:
            for name, weight in self._weights.items():
                _replace(weight, before[name])

    def _alike(self) -> list[list[str]]:
        """Names of tensors that one operation takes together."""
        groups: dict[Any, list[str]] = {}
        for name, weight in self._weights.items():
            groups.setdefault((is_shard(weight), weight.device), []).append(name)
        return list(groups.values())


def _averaged(module: nn.Module) -> dict[str, Tensor]:
    """The tensors that are averaged; one that has several names counts once."""
    kept = module.state_dict(keep_vars=True)
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    found = {**parameters, **dict(module.named_buffers())}
    return {name: tensor for name, tensor in found.items() if name in kept and tensor.is_floating_point()}


@torch.no_grad()
def _replace(weight: Tensor, values: Tensor) -> Tensor:
    """Give a tensor other values; returns those it had."""
    if is_shard(weight):  # FSDP2 knows the memory, so that stays
        before = weight.detach().clone()
        weight.copy_(values)
        return before
    before, weight.data = weight.data, values.data.to(weight.dtype)
    return before


def _fp32(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.float32)
