"""What a training measures, to JSON lines: one file a run, cut back to the step that a run resumes from."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oneclip.errors import OutputError


@dataclass(frozen=True)
class Report:
    """The state of a training after a step. Losses are means over the steps since the last report."""

    step: int  # steps done
    steps: int  # to do, from the beginning
    losses: Mapping[str, float]
    lr: float
    logit_scale: float
    grad_norm: float  # of the last step, before clipping
    pairs_per_second: float
    waiting: float  # share of the time spent waiting for data
    seconds_left: float
    evaluation: Mapping[str, float] = field(default_factory=dict)
    memory: int = 0  # bytes: the most that the GPU held, or what the process holds; 0 if it is not known

    def to_dict(self) -> dict[str, Any]:
        """Flat, for a line of JSON."""
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
    """Appends mappings to a file, a JSON object a line; without a path it does nothing."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def cut_after(self, step: int) -> None:
        """Drop the lines past a step, and a line cut short by a crash."""
        if self.path is None or not self.path.exists():
            return
        kept = [line for line in self.path.read_text(errors="replace").splitlines() if _step(line) <= step]
        temporary = self.path.with_suffix(".part")
        temporary.write_text("".join(line + "\n" for line in kept))
        os.replace(temporary, self.path)

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
            raise OutputError(f"could not write to {self.path}: {error}; make room and resume") from error

    def evaluation_at(self, step: int) -> dict[str, float] | None:
        """The evaluation that was written at a step, if one was."""
        lines = read_metrics(self.path) if self.path is not None else []
        return next(
            (line["evaluation"] for line in lines if line["step"] == step and "evaluation" in line), None
        )


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of metrics, without one that was cut short; none if there is no file."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [json.loads(line) for line in lines if _step(line) < float("inf")]


def _finite(value: Any) -> Any:
    """Null for what JSON has no number for, such as the gradient of a step that fp16 left out."""
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, OverflowError, RecursionError, TypeError):
        return float("inf")
