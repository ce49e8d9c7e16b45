"""Throughput of a run: items per second, time left, and the bottleneck."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from oneclip.embed.prefetch import StageTimer, bottleneck

WINDOW = 20.0  # seconds over which the rate is averaged
INTERVAL = 0.5  # seconds between reports


@dataclass(frozen=True)
class EmbedProgress:
    """Progress of a run.

    Attributes:
        done: items so far, including those of earlier runs and failures.
        total: number of items, or None if unknown.
        rate: items per second, over the last seconds.
        seconds_left: at this rate, or None if unknown.
        limited_by: "reading", "decoding" or "the model".
    """

    done: int
    total: int | None
    rate: float
    seconds_left: float | None
    limited_by: str


class ThroughputMeter:
    """Counter of items that reports progress.

    Args:
        timer: of the run.
        total: number of items, if known.
        report: called at most twice a second.
    """

    def __init__(self, timer: StageTimer, total: int | None, report: Callable[[EmbedProgress], None]) -> None:
        self._timer, self._total, self._report = timer, total, report
        self._done = 0
        self._marks = deque([(time.monotonic(), 0, timer.read())])
        self._due = time.monotonic() + INTERVAL

    def advance(self, count: int = 1) -> None:
        """Count items that were read; the model may not have encoded them yet."""
        self._done += count
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + INTERVAL
        seconds = self._timer.read()
        self._marks.append((now, self._done, seconds))
        while len(self._marks) > 2 and now - self._marks[1][0] > WINDOW:
            self._marks.popleft()
        then, done, before = self._marks[0]
        rate = (self._done - done) / (now - then)
        left = (self._total - self._done) / rate if self._total is not None and rate else None
        self._report(EmbedProgress(self._done, self._total, rate, left, bottleneck(before, seconds)))
