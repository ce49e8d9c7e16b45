"""Progress bar of a training: loss, pairs per second, waiting for data, memory, remaining time."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from oneclip.train.reporting.metrics import TrainingReport


class ProgressBar:
    """A `Reporter` that draws a bar on a terminal. If the console is a file or a pipe, it writes lines instead.

    Args:
        console: standard error by default.
        lines_every: steps between lines.
    """

    def __init__(self, console: Console | None = None, lines_every: int = 100) -> None:
        self.console = console if console is not None else Console(stderr=True)
        self.lines_every = lines_every
        self._written = 0
        self._task: TaskID | None = None
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )

    def start(self, step: int, steps: int) -> None:
        """Draw the bar."""
        self._written = step - self.lines_every
        self._task = self._bar.add_task("training", total=steps, completed=step, status="first steps …")
        self._bar.start()

    def update(self, report: TrainingReport) -> None:
        """Move the bar."""
        memory = f"{report.memory / 2**30:.1f} GiB  " if report.memory else ""
        status = (
            f"loss {report.losses['loss']:.4f}  {report.pairs_per_second:,.0f} pairs/s  "
            f"{100 * report.waiting:.0f} % waiting for data  {memory}"
            f"{timedelta(seconds=round(report.seconds_left))} left"
        )
        if self._task is not None:
            self._bar.update(self._task, completed=report.step, status=status)
        is_due = report.step - self._written >= self.lines_every or report.step == report.steps
        if not self.console.is_terminal and is_due:
            self._written = report.step
            self._write(f"step {report.step}/{report.steps}  {status}")

    def evaluated(self, step: int, results: Mapping[str, float]) -> None:
        """Write the results above the bar."""
        self._write(f"step {step}  " + "  ".join(f"{name} {value:.4g}" for name, value in results.items()))

    def note(self, text: str) -> None:
        """Write a line above the bar."""
        self._write(text)

    def stop(self) -> None:
        """Stop updating the bar; it stays visible."""
        self._bar.stop()

    def _write(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)
