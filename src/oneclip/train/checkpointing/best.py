"""Tracking of the best evaluation of a training, and early stopping."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from oneclip.config.training import TrainCfg
from oneclip.errors import ConfigError


class BestTracker:
    """Tracker of the best value of one metric.

    Args:
        cfg: `keep_best`, `patience` and `best_metric`.
        evaluate: the evaluation hook. Without `best_metric`, the headline metric of its task is tracked. Metrics with
            "loss" in their name are better when lower.

    Attributes:
        step: of the best evaluation; 0 before the first.
        evaluation: all metrics of the best evaluation.
        name: of the checkpoint with its weights, if it was saved.

    Raises:
        ConfigError: if there is no held-out data, or no metric to track.
    """

    def __init__(self, cfg: TrainCfg, evaluate: object) -> None:
        self._patience = cfg.patience
        self._is_used = cfg.keep_best or cfg.patience > 0
        self._metric = cfg.best_metric or getattr(getattr(evaluate, "task", None), "headline", None)
        if self._is_used and evaluate is None:
            raise ConfigError("keep_best and patience need held-out data; set eval_data (--eval-data)")
        if self._is_used and self._metric is None:
            raise ConfigError(
                "keep_best and patience need the name of one metric of the evaluation; set best_metric (--best-metric)"
            )
        self.step = self._since = 0
        self.evaluation: dict[str, float] = {}
        self.name: str | None = None

    @property
    def should_stop(self) -> bool:
        """True if none of the last `patience` evaluations was better than the best one."""
        return 0 < self._patience <= self._since

    def update(self, step: int, evaluation: Mapping[str, float]) -> bool:
        """Record an evaluation, and tell whether it is the best so far.

        Raises:
            ConfigError: if the evaluation does not contain the metric.
        """
        if not self._is_used or step <= self.step:
            return False
        assert self._metric is not None
        if self._metric not in evaluation:
            raise ConfigError(
                f"the evaluation has no metric {self._metric!r} (best_metric); available: "
                f"{', '.join(map(repr, evaluation)) or 'none'}"
            )
        if self.evaluation and not self._is_better(evaluation[self._metric], self.evaluation[self._metric]):
            self._since += 1
            return False
        self.step, self.evaluation, self._since = step, dict(evaluation), 0
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return plain values for `load_state_dict`."""
        return {"step": self.step, "evaluation": self.evaluation, "name": self.name, "since": self._since}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        if state:
            self.step, self.evaluation = int(state["step"]), dict(state["evaluation"])
            self.name, self._since = state["name"], int(state["since"])

    def _is_better(self, value: float, than: float) -> bool:
        if math.isnan(than):
            return not math.isnan(value)
        return value < than if "loss" in str(self._metric) else value > than
