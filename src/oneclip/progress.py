"""Progress of a long computation: a callback, or a bar on stderr if the caller requests one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

Progress: TypeAlias = bool | Callable[[int], None]


@contextmanager
def report_progress(progress: Progress, total: int | None, what: str) -> Iterator[Callable[[int], None]]:
    """Make a function to call with the number of items that were just done.

    Args:
        progress: False for nothing, True for a bar on stderr, or the function itself.
        total: the number of items, or None if unknown.
        what: the items, in the plural.
    """
    if callable(progress):
        yield progress
    elif not progress:
        yield lambda count: None
    else:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda count: bar.advance(task, count)
