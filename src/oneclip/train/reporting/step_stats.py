"""Losses, gradients and seconds of single steps to the figures of a report."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from oneclip import hardware
from oneclip.train.distributed.world import World
from oneclip.train.reporting.metrics import Report


class Meter:
    """Gathers what steps measure until a report is made of it. Holds tensors: no step waits for a device.

    Args:
        step: steps done before.
        steps: where the training ends.
        world: whose losses are averaged, and whose pairs are counted.
    """

    def __init__(self, step: int, steps: int, world: World | None = None) -> None:
        self._first, self._steps = step, steps
        self._world = world if world is not None else World()
        self._all_seconds = 0.0
        self._norm = self._norms = torch.zeros(())
        self._lr = 0.0
        self._clear()

    def add(self, losses: Mapping[str, Tensor], pairs: int) -> None:
        """Count a batch."""
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach().float()
        self._batches += 1
        self._pairs += pairs

    def stepped(self, grad_norm: Tensor, lr: float) -> None:
        """Count an update of the weights."""
        self._norm, self._lr = grad_norm.detach(), lr
        self._norms = self._norms + self._norm

    def is_finite(self, with_gradients: bool = True) -> bool:
        """Whether all losses since the last report are, and all gradients."""
        gradients = [self._norms] if with_gradients else []
        return all(math.isfinite(float(value)) for value in (*self._sums.values(), *gradients))

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Time spent waiting for data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time that is not of training, such as an evaluation."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._start += time.perf_counter() - start

    def report(self, step: int, logit_scale: float) -> Report:
        """The figures since the last report, over all ranks; every one has to ask at the same step."""
        means = [float(value) / self._batches for value in self._sums.values()]
        *means, pairs = self._world.sum([*means, self._pairs])
        seconds = max(time.perf_counter() - self._start, 1e-9)
        self._all_seconds += seconds
        report = Report(
            step=step,
            steps=self._steps,
            losses={name: mean / self._world.size for name, mean in zip(self._sums, means, strict=True)},
            lr=self._lr,
            logit_scale=logit_scale,
            grad_norm=float(self._norm),
            pairs_per_second=pairs / seconds,
            waiting=self._waited / seconds,
            seconds_left=self._all_seconds / (step - self._first) * (self._steps - step),
            memory=memory_held(),
        )
        self._clear()
        return report

    def _clear(self) -> None:
        self._sums: dict[str, Tensor | int] = {}
        self._norms = torch.zeros(())
        self._batches = self._pairs = 0
        self._waited = 0.0
        self._start = time.perf_counter()


def memory_held() -> int:
    """Bytes: the most that this process's tensors took of its GPU, or without one what the process takes now."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return torch.cuda.max_memory_allocated()
    return hardware.resident()
