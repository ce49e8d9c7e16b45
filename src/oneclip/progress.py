"""How far a long computation is, told to a caller or drawn on stderr when the caller asked for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

Progress: TypeAlias = bool | Callable[[int], None]


@contextmanager
def reporting(progress: Progress, total: int | None, what: str) -> Iterator[Callable[[int], None]]:
    """What to call with the number of items that were just done.

    Args:
        progress: False for nothing, True for a bar on stderr, or the function to call.
        total: how many items there are, if that is known.
        what: their name, in the plural.
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
