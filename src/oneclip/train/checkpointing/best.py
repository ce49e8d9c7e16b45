"""The best evaluation of a training so far, and whether one has been too long in coming."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from oneclip.config.training import TrainCfg
from oneclip.errors import ConfigError


class Best:
    """Follows one figure of the evaluations.

    Args:
        cfg: `keep_best`, `patience` and `best_figure`.
        evaluate: the hook; the headline of its task, if it has one, is the figure that counts unless the settings
            name another. Of a figure with "loss" in its name less is better.

    Attributes:
        step: of the best evaluation; 0 before the first.
        evaluation: its figures.
        name: of the checkpoint of its weights, if they are kept.

    Raises:
        ConfigError: if there is nothing to evaluate on, or no figure to go by.
    """

    def __init__(self, cfg: TrainCfg, evaluate: object) -> None:
        self._patience = cfg.patience
        self._is_used = cfg.keep_best or cfg.patience > 0
        self._figure = cfg.best_figure or getattr(getattr(evaluate, "task", None), "headline", None)
        if self._is_used and evaluate is None:
            raise ConfigError(
                "keep_best and patience go by an evaluation, and there is no held-out data: name some (eval_data, "
                "--eval-data)"
            )
        if self._is_used and self._figure is None:
            raise ConfigError(
                "keep_best and patience go by one figure of the evaluation; name it (best_figure, --best-figure)"
            )
        self.step = self._since = 0
        self.evaluation: dict[str, float] = {}
        self.name: str | None = None

    @property
    def is_over(self) -> bool:
        """Whether the last `patience` evaluations brought nothing better."""
        return 0 < self._patience <= self._since

    def saw(self, step: int, evaluation: Mapping[str, float]) -> bool:
        """Take an evaluation into account; whether it is the best so far.

        Raises:
            ConfigError: if it lacks the figure.
        """
        if not self._is_used or step <= self.step:
            return False
        assert self._figure is not None
        if self._figure not in evaluation:
            raise ConfigError(
                f"the evaluation has no figure {self._figure!r}, which best_figure names; it has "
                f"{', '.join(map(repr, evaluation)) or 'none'}"
            )
        if self.evaluation and not self._is_better(evaluation[self._figure], self.evaluation[self._figure]):
            self._since += 1
            return False
        self.step, self.evaluation, self._since = step, dict(evaluation), 0
        return True

    def state_dict(self) -> dict[str, Any]:
        """Plain values for `load_state_dict`."""
        return {"step": self.step, "evaluation": self.evaluation, "name": self.name, "since": self._since}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where `state_dict` was taken."""
        if state:
            self.step, self.evaluation = int(state["step"]), dict(state["evaluation"])
            self.name, self._since = state["name"], int(state["since"])

    def _is_better(self, value: float, than: float) -> bool:
        if math.isnan(than):
            return not math.isnan(value)
        return value < than if "loss" in str(self._figure) else value > than
