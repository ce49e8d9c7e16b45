"""Progress on stderr, for commands that take longer than two seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from threading import Timer
from typing import TYPE_CHECKING

from oneclip.cli.exits import echo_stderr

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from oneclip.embed.throughput import EmbedProgress

QUIET_SECONDS = 2.0  # before anything is shown
LOG_INTERVAL = 10.0  # seconds between lines if stderr is not a terminal


@contextmanager
def message_if_slow(text: str) -> Iterator[None]:
    """Print a message on stderr if the block takes longer than two seconds."""
    timer = Timer(QUIET_SECONDS, echo_stderr, [text])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def progress_bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show progress: a bar on a terminal, a line every ten seconds elsewhere.

    Args:
        what: the items, in the plural.
        total: the number of items.

    Yields:
        A function to call with the number of items that were just done.
    """
    if not sys.stderr.isatty():
        yield _log_progress(what, total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    task = progress.add_task(what, total=total)
    timer = Timer(QUIET_SECONDS, progress.start)
    timer.daemon = True
    timer.start()
    try:
        yield lambda count: progress.advance(task, count)
    finally:
        timer.cancel()
        timer.join()
        if progress.live.is_started:
            progress.stop()


def _log_progress(what: str, total: int) -> Callable[[int], None]:
    start = time.monotonic()
    done, due = 0, start + QUIET_SECONDS

    def advance(count: int) -> None:
        nonlocal done, due
        done += count
        now = time.monotonic()
        if now >= due and done < total:
            due = now + LOG_INTERVAL
            left = (now - start) * (total - done) / max(done, 1)
            echo_stderr(f"{done} of {total} {what}, {done / (now - start):.0f} per second, {left:.0f} s left")

    return advance


@contextmanager
def throughput_bar(what: str) -> Iterator[Callable[[EmbedProgress], None]]:
    """Show the progress that a run reports, with its rate and bottleneck; nothing before the first report.

    Args:
        what: the items, in the plural.

    Yields:
        A function to call with each report.
    """
    if not sys.stderr.isatty():
        yield _log_reports(what)
        return
    with ExitStack() as stack:
        bars: list[tuple[Progress, TaskID]] = []

        def show(report: EmbedProgress) -> None:
            if not bars:
                bars.append(_open_bar(stack, what))
            bar, task = bars[0]
            bar.update(
                task, completed=report.done, total=report.total, description=_format_report(report, what)
            )
            bar.refresh()

        yield show


def _open_bar(stack: ExitStack, what: str) -> tuple[Progress, TaskID]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (BarColumn(), TextColumn("{task.description}"))
    bar = stack.enter_context(
        Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False)
    )
    return bar, bar.add_task(what, total=None)


def _log_reports(what: str) -> Callable[[EmbedProgress], None]:
    due = time.monotonic() + QUIET_SECONDS

    def show(report: EmbedProgress) -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + LOG_INTERVAL
            echo_stderr(_format_report(report, what))

    return show


def _format_report(report: EmbedProgress, what: str) -> str:
    """Format as "1200 of 5000 images, 96 per second, 40 s left, limited by decoding"."""
    parts = [f"{report.done} {what}" if report.total is None else f"{report.done} of {report.total} {what}"]
    parts.append(f"{report.rate:.3g} per second" if report.rate < 100 else f"{report.rate:.0f} per second")
    if report.seconds_left is not None:
        parts.append(f"{_format_duration(report.seconds_left)} left")
    return ", ".join([*parts, f"limited by {report.limited_by}"])


def _format_duration(seconds: float) -> str:
    """Format a duration in at most two units: 40 s, 3 min 20 s, 5 h 3 min, 2 d 4 h."""
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    for (name, size), (next_name, next_size) in pairwise(units):
        if seconds >= size:
            return f"{int(seconds // size)} {name} {int(seconds % size // next_size)} {next_name}"
    return f"{seconds:.0f} s"
