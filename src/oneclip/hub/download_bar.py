"""Progress bar of a download, on stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

QUIET_SECONDS = 2.0  # without a terminal, a shorter download draws nothing


class DownloadBar:
    """Progress bar with bytes, speed and time left; shown at once on a terminal, elsewhere after two seconds.

    Args:
        name: of the file.
        shown: False to draw nothing.
    """

    def __init__(self, name: str, shown: bool = True) -> None:
        self.name = name
        self.shown = shown
        self.started = time.monotonic()
        self.done = 0
        self.total: int | None = None
        self._progress: Progress | None = None

    def start(self, done: int, total: int | None) -> None:
        """Set the bytes that are already present, and the total if it is known."""
        self.done, self.total = done, total
        self._draw()

    def advance(self, count: int) -> None:
        """Add newly received bytes."""
        self.done += count
        self._draw()

    def _draw(self) -> None:
        waited = time.monotonic() - self.started
        if not self.shown or (waited < QUIET_SECONDS and not sys.stderr.isatty()):
            return
        if self._progress is None:
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
            from rich.progress import TransferSpeedColumn as Speed

            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), Speed())
            self._progress = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
            self._progress.add_task(self.name, total=self.total, completed=self.done)
            self._progress.start()
        self._progress.update(self._progress.task_ids[0], completed=self.done, total=self.total)

    def __enter__(self) -> DownloadBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
