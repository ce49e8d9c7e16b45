"""Reports of a training to several receivers: a progress bar, TensorBoard's events, Weights & Biases."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from oneclip.errors import MissingExtraError
from oneclip.train.loop import Reporter
from oneclip.train.reporting.metrics import Report

NO_CURVES = ("step",)  # in a line of metrics, what is no figure


class Reporters:
    """Several reporters as one; `note` reaches those that have it.

    Args:
        members: told in this order.
    """

    def __init__(self, members: Sequence[Reporter]) -> None:
        self.members = list(members)

    def start(self, step: int, steps: int) -> None:
        """A training begins, or goes on, after `step` of `steps` steps."""
        for member in self.members:
            member.start(step, steps)

    def update(self, report: Report) -> None:
        """Some steps are done."""
        for member in self.members:
            member.update(report)

    def evaluated(self, step: int, results: Mapping[str, float]) -> None:
        """An evaluation is done."""
        for member in self.members:
            member.evaluated(step, results)

    def stop(self) -> None:
        """The training has ended, one way or another."""
        for member in self.members:
            member.stop()

    def note(self, text: str) -> None:
        """Something to know besides."""
        for member in self.members:
            if hasattr(member, "note"):
                member.note(text)


class TensorBoard:
    """Writes the figures as events that TensorBoard shows.

    Args:
        folder: for its files; a run that goes on adds one.

    Raises:
        MissingExtraError: if tensorboard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        if find_spec("tensorboard") is None:
            raise MissingExtraError("Writing events for TensorBoard", "train")
        self._folder, self._writer = folder, None

    def start(self, step: int, steps: int) -> None:
        """Open a file; what another one has past this step is no longer shown."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._writer = EventFileWriter(str(self._folder))
        if step:
            self._add(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))

    def update(self, report: Report) -> None:
        """Write a point of each curve."""
        self._write(report.step, {f"train/{name}": value for name, value in figures(report).items()})

    def evaluated(self, step: int, results: Mapping[str, float]) -> None:
        """Likewise, of an evaluation."""
        self._write(step, {f"evaluation/{name}": value for name, value in results.items()})

    def stop(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        points = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._add(Event(step=step, summary=Summary(value=points)))

    def _add(self, event: Any) -> None:
        if self._writer is not None:
            event.wall_time = time.time()
            self._writer.add_event(event)


class WeightsAndBiases:
    """Sends the figures to a project of Weights & Biases; a run that goes on is the same run there.

    Args:
        project: its name.
        folder: of the run.
        settings: of the run, to be seen there.

    Raises:
        MissingExtraError: if wandb is not installed.
    """

    def __init__(self, project: str, folder: Path, settings: Mapping[str, Any]) -> None:
        if find_spec("wandb") is None:
            raise MissingExtraError("Reporting to Weights & Biases", "wandb")
        self.project, self._folder, self._settings = project, folder, dict(settings)
        self._run: Any = None

    def start(self, step: int, steps: int) -> None:
        """Begin a run there, or go on with it."""
        import wandb

        self._run = wandb.init(
            project=self.project,
            name=self._folder.name,
            id=self._id(is_new=step == 0),
            resume="allow",
            dir=str(self._folder),
            config=self._settings,
        )

    def update(self, report: Report) -> None:
        """Send a point of each curve."""
        self._run.log({f"train/{name}": value for name, value in figures(report).items()}, step=report.step)

    def evaluated(self, step: int, results: Mapping[str, float]) -> None:
        """Likewise, of an evaluation."""
        self._run.log({f"evaluation/{name}": value for name, value in results.items()}, step=step)

    def stop(self) -> None:
        """End it there."""
        if self._run is not None:
            self._run.finish()
            self._run = None

    def _id(self, *, is_new: bool) -> str:
        path = self._folder / "wandb_id"
        if is_new or not path.is_file():
            path.write_text(secrets.token_hex(4), encoding="utf-8")
        return path.read_text(encoding="utf-8")


def figures(report: Report) -> dict[str, float]:
    """The numbers of a report, by name."""
    return {name: float(value) for name, value in report.to_dict().items() if name not in NO_CURVES}
