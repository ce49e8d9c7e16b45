"""Metrics of a training as JSON lines: one file per run, truncated when a run resumes from an earlier step."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oneclip.errors import OutputError
from oneclip.hub.atomic import replace_file


@dataclass(frozen=True)
class TrainingReport:
    """Progress of a training after a step. Losses are means over the steps since the last report."""

    step: int  # finished steps
    steps: int  # of the whole training
    losses: Mapping[str, float]
    lr: float
    logit_scale: float
    grad_norm: float  # of the last step, before clipping
    pairs_per_second: float
    waiting: float  # fraction of the time spent waiting for data
    seconds_left: float
    evaluation: Mapping[str, float] = field(default_factory=dict)
    memory: int = 0  # bytes: peak on the GPU, else of the process now; 0 if unknown

    def to_dict(self) -> dict[str, Any]:
        """Return a flat dict for a line of JSON."""
        line: dict[str, Any] = {
            "step": self.step,
            **self.losses,
            "lr": self.lr,
            "logit_scale": self.logit_scale,
        }
        line |= {"grad_norm": self.grad_norm, "pairs_per_second": round(self.pairs_per_second, 1)}
        line |= {"waiting": round(self.waiting, 4)}
        return line | ({"memory": self.memory} if self.memory else {})


class MetricsFile:
    """File of metrics, one JSON object per line. Without a path it does nothing."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def truncate_after(self, step: int) -> None:
        """Drop the lines after a step, and a line that a crash truncated."""
        if self.path is None or not self.path.exists():
            return
        kept = [line for line in self.path.read_text(errors="replace").splitlines() if _step(line) <= step]
        with replace_file(self.path) as temporary:
            temporary.write_text("".join(line + "\n" for line in kept))

    def write(self, values: Mapping[str, Any]) -> None:
        """Append a line.

        Raises:
            OutputError: if it cannot be written.
        """
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(json.dumps(_finite(values), allow_nan=False) + "\n")
        except OSError as error:
            raise OutputError(
                f"cannot write to {self.path}: {error}; free some disk space and resume"
            ) from error

    def evaluation_at(self, step: int) -> dict[str, float] | None:
        """Return the evaluation that was written at a step; None if there was none."""
        lines = read_metrics(self.path) if self.path is not None else []
        return next(
            (line["evaluation"] for line in lines if line["step"] == step and "evaluation" in line), None
        )


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a metrics file, without truncated ones; empty if the file does not exist."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [json.loads(line) for line in lines if _step(line) < float("inf")]


def _finite(value: Any) -> Any:
    """Replace NaN and infinity by None: JSON has no such numbers. The gradient of a skipped fp16 step is infinite."""
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, OverflowError, RecursionError, TypeError):
        return float("inf")
