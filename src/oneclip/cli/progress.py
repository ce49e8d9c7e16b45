"""How far a command is, on stderr, once it has taken two seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Timer

from oneclip.cli.exits import say

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
