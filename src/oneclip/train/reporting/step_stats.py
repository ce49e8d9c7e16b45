"""Step statistics: collect losses, gradients and times of single steps into a report."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from oneclip import hardware
from oneclip.train.distributed.world import World
from oneclip.train.reporting.metrics import TrainingReport


class StepMeter:
    """Collector of the measurements of steps until the next report. Keeps tensors, so no step waits for the device.

    Args:
        step: steps finished before.
        steps: of the whole training.
        world: the ranks over which losses are averaged and pairs are counted.
    """

    def __init__(self, step: int, steps: int, world: World | None = None) -> None:
        self._first, self._steps = step, steps
        self._world = world if world is not None else World()
        self._all_seconds = 0.0
        self._norm = self._norms = torch.zeros(())
        self._lr = 0.0
        self._clear()

    def add(self, losses: Mapping[str, Tensor], pairs: int) -> None:
        """Add the losses of a batch."""
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach().float()
        self._batches += 1
        self._pairs += pairs

    def add_step(self, grad_norm: Tensor, lr: float) -> None:
        """Add an optimizer step."""
        self._norm, self._lr = grad_norm.detach(), lr
        self._norms = self._norms + self._norm

    def is_finite(self, with_gradients: bool = True) -> bool:
        """Tell whether all losses, and all gradients if requested, are finite since the last report."""
        gradients = [self._norms] if with_gradients else []
        return all(math.isfinite(float(value)) for value in (*self._sums.values(), *gradients))

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Measure time spent waiting for data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude time that is not training, such as an evaluation."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._start += time.perf_counter() - start

    def report(self, step: int, logit_scale: float) -> TrainingReport:
        """Report on the steps since the last report, over all ranks. Every rank must call this at the same step."""
        means = [float(value) / self._batches for value in self._sums.values()]
        *means, pairs = self._world.sum([*means, self._pairs])
        seconds = max(time.perf_counter() - self._start, 1e-9)
        self._all_seconds += seconds
        report = TrainingReport(
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
    """Return bytes: the peak of this process on the GPU, or without a GPU the current size of the process."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return torch.cuda.max_memory_allocated()
    return hardware.resident_memory()
