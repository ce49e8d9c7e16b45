"""How far a command is, on stderr, once it has taken two seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from threading import Timer
from typing import TYPE_CHECKING

from oneclip.cli.exits import say

if TYPE_CHECKING:
    from oneclip.embed.throughput import Report

PATIENCE = 2.0  # seconds that pass in silence
LOG_INTERVAL = 10.0  # seconds between lines where stderr is no terminal


@contextmanager
def after_two_seconds(text: str) -> Iterator[None]:
    """Say something on stderr if the block takes longer than that."""
    timer = Timer(PATIENCE, say, [text])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar where stderr is a terminal, a line now and then where it is a file.

    Args:
        what: the items, in the plural.
        total: how many there are.

    Yields:
        what to call with the number of items that were just done.
    """
    if not sys.stderr.isatty():
        yield _log(what, total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    task = progress.add_task(what, total=total)
    timer = Timer(PATIENCE, progress.start)
    timer.daemon = True
    timer.start()
    try:
        yield lambda count: progress.advance(task, count)
    finally:
        timer.cancel()
        timer.join()
        if progress.live.is_started:
            progress.stop()


def _log(what: str, total: int) -> Callable[[int], None]:
    start = time.monotonic()
    done, due = 0, start + PATIENCE

    def advance(count: int) -> None:
        nonlocal done, due
        done += count
        now = time.monotonic()
        if now >= due and done < total:
            due = now + LOG_INTERVAL
            left = (now - start) * (total - done) / max(done, 1)
            say(f"{done} of {total} {what}, {done / (now - start):.0f} a second, {left:.0f} s left")

    return advance


@contextmanager
def reports(what: str) -> Iterator[Callable[[Report], None]]:
    """A bar or lines for a run that says by itself how far it is, and what it waits for.

    Args:
        what: the items, in the plural.

    Yields:
        what to call with each report.
    """
    if not sys.stderr.isatty():
        yield _log_reports(what)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (BarColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as progress:
        task = progress.add_task(what, total=None)

        def show(report: Report) -> None:
            progress.update(
                task, completed=report.done, total=report.total, description=_sentence(report, what)
            )
            progress.refresh()

        yield show


def _log_reports(what: str) -> Callable[[Report], None]:
    due = time.monotonic() + PATIENCE

    def show(report: Report) -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + LOG_INTERVAL
            say(_sentence(report, what))

    return show


def _sentence(report: Report, what: str) -> str:
    """ "1200 of 5000 pictures, 96 a second, 40 s left, limited by decoding"."""
    parts = [f"{report.done} {what}" if report.total is None else f"{report.done} of {report.total} {what}"]
    parts.append(f"{report.rate:.3g} a second" if report.rate < 100 else f"{report.rate:.0f} a second")
    if report.seconds_left is not None:
        parts.append(f"{_duration(report.seconds_left)} left")
    return ", ".join([*parts, f"limited by {report.limited_by}"])


def _duration(seconds: float) -> str:
    """Two units at most: 40 s, 3 min 20 s, 5 h 3 min, 2 d 4 h."""
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    for (name, size), (next_name, next_size) in pairwise(units):
        if seconds >= size:
            return f"{int(seconds // size)} {name} {int(seconds % size // next_size)} {next_name}"
    return f"{seconds:.0f} s"
