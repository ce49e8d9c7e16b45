"""Weights before and after a fine-tuning to those between, and the best of them (Wortsman et al. 2022, WiSE-FT)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from oneclip.config.finetune import AFTER, BEST
from oneclip.errors import ConfigError

Figures = Mapping[str, float]


def interpolate(before: Mapping[str, Tensor], after: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """(1 - alpha) before + alpha after, of every tensor; batch norm statistics like weights.

    Both ends come out bit for bit. Counts are those of after, but at 0.

    Raises:
        ConfigError: if the two are not of one model.
    """
    if before.keys() != after.keys():
        odd = sorted(before.keys() ^ after.keys())
        raise ConfigError(
            f"the weights before and after are not of one model: {', '.join(odd[:3])} is in one of them"
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
class Point:
    """One point between before (alpha 0) and after (alpha 1), and its figures."""

    alpha: float
    new: Figures
    old: Figures | None = None


@dataclass(frozen=True)
class Path:
    """The points from before to after, and which of them is the best compromise.

    Attributes:
        points: by rising alpha, 0 and 1 among them.
        new_name, new_metric: the task that was trained for, and the figure that stands for it; more is better.
        old_name, old_metric: likewise of the task from before, if there is one.
        chosen: alpha of the one that is written.
    """

    points: Sequence[Point]
    new_name: str
    new_metric: str
    old_name: str | None
    old_metric: str | None
    chosen: float

    def at(self, alpha: float) -> Point:
        """The point with that alpha."""
        return next(point for point in self.points if point.alpha == alpha)

    def new(self, point: Point) -> float:
        """The figure of a point on the new task."""
        return point.new[self.new_metric]

    def old(self, point: Point) -> float | None:
        """Likewise on the one from before."""
        return point.old[self.old_metric] if point.old is not None and self.old_metric is not None else None

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return asdict(self)


def walk(
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    alphas: Iterable[float],
    evaluate: Callable[[Mapping[str, Tensor]], tuple[Figures, Figures | None]],
) -> list[Point]:
    """Evaluate the points between before and after, one after the other."""
    return [Point(alpha, *evaluate(interpolate(before, after, alpha))) for alpha in alphas]


def choose(
    points: Sequence[Point], new_metric: str, old_metric: str | None, alpha: str | float = BEST
) -> float:
    """The alpha to write.

    The best compromise has the largest harmonic mean of its two figures, each relative to the best on the path: a
    point that lost nearly all of one task is none, however good it is at the other. Without a task from before it is
    the best on the new one. Of equals, the one nearer to before.

    Args:
        points: all of them.
        new_metric, old_metric: the figures that count.
        alpha: "best", "after", or the one that is wanted.
    """
    if alpha == AFTER:
        return points[-1].alpha
    if not isinstance(alpha, str):
        return float(alpha)
    best_new = max(point.new[new_metric] for point in points)
    best_old = max(_old(point, old_metric) for point in points)

    def worth(point: Point) -> float:
        new, old = _share(point.new[new_metric], best_new), _share(_old(point, old_metric), best_old)
        return 2 * new * old / (new + old) if new + old else 0.0

    return max(points, key=lambda point: (worth(point), -point.alpha)).alpha


def _old(point: Point, metric: str | None) -> float:
    return point.old[metric] if point.old is not None and metric is not None else 1.0


def _share(value: float, best: float) -> float:
    return value / best if best > 0 else 1.0
