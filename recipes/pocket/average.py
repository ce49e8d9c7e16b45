"""The weights of many steps to their moving average."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of a model's weights and of its batch statistics (Polyak & Juditsky 1992).

    The first steps weigh less than `decay` says, so that the average does not hang on to where it began.

    Args:
        model: whose state it averages, from its state now.
        decay: a step.
        every: steps between updates, which then count for as many.
    """

    def __init__(self, model: nn.Module, decay: float, every: int = 4) -> None:
        self.decay, self.every = decay, every
        self.state = {key: value.detach().clone() for key, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after `step` steps."""
        if step % self.every:
            return
        decay = min(self.decay**self.every, step / (step + 10 * self.every))
        means: list[Tensor] = []
        values: list[Tensor] = []
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                means.append(self.state[key])
                values.append(value)
            else:
                self.state[key].copy_(value)
        torch._foreach_lerp_(means, values, 1 - decay)

    @contextmanager
    def in_place_of(self, model: nn.Module) -> Iterator[None]:
        """The model with the average as its weights, for as long as the context lasts."""
        own = {key: value.detach().clone() for key, value in model.state_dict().items()}
        model.load_state_dict(self.state)
        try:
            yield
        finally:
            model.load_state_dict(own)
