"""Reporters of a training: TensorBoard, Weights & Biases, and a group of several reporters."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from oneclip.errors import MissingExtraError
from oneclip.train.loop import Reporter
from oneclip.train.reporting.metrics import TrainingReport

NOT_SCALARS = ("step",)  # keys of a metrics line that are not plotted


class ReporterGroup:
    """Several reporters used as one. `note` calls those that have such a method.

    Args:
        members: called in this order.
    """

    def __init__(self, members: Sequence[Reporter]) -> None:
        self.members = list(members)

    def start(self, step: int, steps: int) -> None:
        """Start or resume a training after `step` of `steps` steps."""
        for member in self.members:
            member.start(step, steps)

    def update(self, report: TrainingReport) -> None:
        """Report progress."""
        for member in self.members:
            member.update(report)

    def evaluated(self, step: int, results: Mapping[str, float]) -> None:
        """Report the results of an evaluation."""
        for member in self.members:
            member.evaluated(step, results)

    def stop(self) -> None:
        """End the training, finished or not."""
        for member in self.members:
            member.stop()

    def note(self, text: str) -> None:
        """Report a message."""
        for member in self.members:
            if hasattr(member, "note"):
                member.note(text)


class TensorBoard:
    """Writer of TensorBoard events.

    Args:
        folder: of the event files. A resumed run adds a file.

    Raises:
        MissingExtraError: if tensorboard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        if find_spec("tensorboard") is None:
            raise MissingExtraError("Writing events for TensorBoard", "train")
        self._folder, self._writer = folder, None

    def start(self, step: int, steps: int) -> None:
        """Open an event file. Events of earlier files after this step are no longer shown."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._writer = EventFileWriter(str(self._folder))
        if step:
            self._add(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))

    def update(self, report: TrainingReport) -> None:
        """Write one point per scalar."""
        self._write(report.step, {f"train/{name}": value for name, value in scalars(report).items()})

    def evaluated(self, step: int, results: Mapping[str, float]) -> None:
        """Write one point per metric of an evaluation."""
        self._write(step, {f"evaluation/{name}": value for name, value in results.items()})

    def stop(self) -> None:
        """Close the event file."""
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
    """Logger of a run to Weights & Biases. A resumed run continues the same run there.

    Args:
        project: name of the project.
        folder: of the run.
        settings: of the run, stored as its config.

    Raises:
        MissingExtraError: if wandb is not installed.
    """

    def __init__(self, project: str, folder: Path, settings: Mapping[str, Any]) -> None:
        if find_spec("wandb") is None:
            raise MissingExtraError("Reporting to Weights & Biases", "wandb")
        self.project, self._folder, self._settings = project, folder, dict(settings)
        self._run: Any = None

    def start(self, step: int, steps: int) -> None:
        """Start or resume the run."""
        import wandb

        self._run = wandb.init(
            project=self.project,
            name=self._folder.name,
            id=self._id(is_new=step == 0),
            resume="allow",
            dir=str(self._folder),
            config=self._settings,
        )

    def update(self, report: TrainingReport) -> None:
        """Send one point per scalar."""
        self._run.log({f"train/{name}": value for name, value in scalars(report).items()}, step=report.step)

    def evaluated(self, step: int, results: Mapping[str, float]) -> None:
        """Send one point per metric of an evaluation."""
        self._run.log({f"evaluation/{name}": value for name, value in results.items()}, step=step)

    def stop(self) -> None:
        """Finish the run."""
        if self._run is not None:
            self._run.finish()
            self._run = None

    def _id(self, *, is_new: bool) -> str:
        path = self._folder / "wandb_id"
        if is_new or not path.is_file():
            path.write_text(secrets.token_hex(4), encoding="utf-8")
        return path.read_text(encoding="utf-8")


def scalars(report: TrainingReport) -> dict[str, float]:
    """Return the numbers of a report by name."""
    return {name: float(value) for name, value in report.to_dict().items() if name not in NOT_SCALARS}
