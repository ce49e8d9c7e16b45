"""Items that are done to what a person wants to know: how many a second, how long yet, and what limits it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from oneclip.embed.prefetch import Clock, limit

WINDOW = 20.0  # seconds that count as now
INTERVAL = 0.5  # seconds between reports


@dataclass(frozen=True)
class Report:
    """How far a run is.

    Attributes:
        done: items so far, with those of earlier runs and those that failed.
        total: of them all; None if nobody knows.
        rate: items a second, over the last seconds.
        seconds_left: at that rate; None if nobody knows.
        limited_by: "reading", "decoding" or "the model".
    """

    done: int
    total: int | None
    rate: float
    seconds_left: float | None
    limited_by: str


class Meter:
    """Counts items.

    Args:
        clock: of the run.
        total: how many items there are, if that is known.
        report: is told at most twice a second.
    """

    def __init__(self, clock: Clock, total: int | None, report: Callable[[Report], None]) -> None:
        self._clock, self._total, self._report = clock, total, report
        self._done = 0
        self._marks = deque([(time.monotonic(), 0, clock.read())])
        self._due = time.monotonic() + INTERVAL

    def advance(self, count: int = 1) -> None:
        """So many items more are read; the model may still have them before it."""
        self._done += count
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + INTERVAL
        seconds = self._clock.read()
        self._marks.append((now, self._done, seconds))
        while len(self._marks) > 2 and now - self._marks[1][0] > WINDOW:
            self._marks.popleft()
        then, done, before = self._marks[0]
        rate = (self._done - done) / (now - then)
        left = (self._total - self._done) / rate if self._total is not None and rate else None
        self._report(Report(self._done, self._total, rate, left, limit(before, seconds)))
