"""WiSE-FT: interpolate between the weights before and after fine-tuning, and select the best (Wortsman et al. 2022)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from oneclip.config.finetune import AFTER, BEST
from oneclip.errors import ConfigError

Metrics = Mapping[str, float]


def interpolate(before: Mapping[str, Tensor], after: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Compute (1 - alpha) before + alpha after for each tensor, including batch norm statistics.

    At alpha 0 and 1 the result is bit for bit `before` or `after`. Integer tensors are those of `after`, except at
    alpha 0.

    Raises:
        ConfigError: if the two are not weights of the same model.
    """
    if before.keys() != after.keys():
        odd = sorted(before.keys() ^ after.keys())
        raise ConfigError(
            f"the weights before and after are not of the same model: only one of them has {', '.join(odd[:3])}"
        )
    if alpha in (0.0, 1.0):
        return dict(after if alpha else before)
    return {
        name: (
            ((1 - alpha) * old.float() + alpha * after[name].to(old.device).float()).to(old.dtype)
            if old.is_floating_point()
            else after[name]
        )
        for name, old in before.items()
    }


@dataclass(frozen=True)
class AlphaPoint:
    """Metrics of one interpolation: on the new task, and on the reference task if there is one."""

    alpha: float
    new: Metrics
    reference: Metrics | None = None


@dataclass(frozen=True)
class AlphaSweep:
    """Metrics of all evaluated interpolations, and the selected one.

    Attributes:
        points: by rising alpha, from 0 to 1.
        new_name, new_metric: the task of the fine-tuning, and its headline metric; higher is better.
        reference_name, reference_metric: the same of the reference task, if there is one.
        chosen: alpha of the weights to write.
    """

    points: Sequence[AlphaPoint]
    new_name: str
    new_metric: str
    reference_name: str | None
    reference_metric: str | None
    chosen: float

    def at(self, alpha: float) -> AlphaPoint:
        """Return the point with an alpha."""
        return next(point for point in self.points if point.alpha == alpha)

    def new_score(self, point: AlphaPoint) -> float:
        """Return the headline metric of a point on the new task."""
        return point.new[self.new_metric]

    def reference_score(self, point: AlphaPoint) -> float | None:
        """Return the headline metric of a point on the reference task, if there is one."""
        if point.reference is None or self.reference_metric is None:
            return None
        return point.reference[self.reference_metric]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def evaluate_alphas(
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    alphas: Iterable[float],
    evaluate: Callable[[Mapping[str, Tensor]], tuple[Metrics, Metrics | None]],
) -> list[AlphaPoint]:
    """Evaluate interpolations between two sets of weights.

    Args:
        before, after: weights at alpha 0 and 1.
        alphas: the interpolations.
        evaluate: returns the metrics of weights on the new task and on the reference task.
    """
    return [AlphaPoint(alpha, *evaluate(interpolate(before, after, alpha))) for alpha in alphas]


def select_alpha(
    points: Sequence[AlphaPoint], new_metric: str, reference_metric: str | None, alpha: str | float = BEST
) -> float:
    """Select the alpha of the weights to write.

    "best" has the largest harmonic mean of its two metrics, each divided by the largest value of all points, so that
    a point which lost one task is not selected. Without a reference task it is the best on the new task. Of equal
    points, the one with the smallest alpha is selected.

    Args:
        points: all evaluated points.
        new_metric, reference_metric: the metrics to compare.
        alpha: "best", "after", or the requested alpha.
    """
    if alpha == AFTER:
        return points[-1].alpha
    if not isinstance(alpha, str):
        return float(alpha)

    def reference(point: AlphaPoint) -> float:
        if point.reference is None or reference_metric is None:
            return 1.0
        return point.reference[reference_metric]

    best_new = max(point.new[new_metric] for point in points)
    best_reference = max(map(reference, points))

    def harmonic_mean(point: AlphaPoint) -> float:
        new = _relative(point.new[new_metric], best_new)
        old = _relative(reference(point), best_reference)
        return 2 * new * old / (new + old) if new + old else 0.0

    return max(points, key=lambda point: (harmonic_mean(point), -point.alpha)).alpha


def _relative(value: float, best: float) -> float:
    return value / best if best > 0 else 1.0
