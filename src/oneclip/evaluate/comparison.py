"""Compare two models on the same data set and task, item by item where both have the same items."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from oneclip.errors import DataError
from oneclip.evaluate.result import Result
from oneclip.evaluate.statistics import Values, paired_difference


@dataclass(frozen=True)
class Comparison:
    """Difference of a metric between two models.

    Attributes:
        difference: of the other model to the first; NaN if one of them does not have the metric.
        low, high: 95 % interval of the difference; NaN without items.
        items: number of items that both models have.
        note: why there is no interval; "" if there is one.
    """

    difference: float
    low: float = math.nan
    high: float = math.nan
    items: int = 0
    note: str = ""

    @property
    def is_clear(self) -> bool:
        """Whether the interval does not contain 0."""
        return self.low > 0 or self.high < 0


def compare_results(first: Result, other: Result, metric: str | None = None) -> Comparison:
    """Compare two models on the images that both could read.

    Args:
        first: result of the model that the other one is compared with.
        other: result of the other model on the same data set and task.
        metric: by default the main metric of `first`.
    """
    metric = metric or first.score.headline
    a, b = first.score.items.get(metric), other.score.items.get(metric)
    plain = other.metrics.get(metric, math.nan) - first.metrics.get(metric, math.nan)
    if a is None or b is None:
        return Comparison(plain, note="this metric has no values per item")
    a, b = _common(first, a, other, b)
    try:
        difference, low, high = paired_difference(b, a)
    except DataError as error:
        return Comparison(plain, note=str(error))
    return Comparison(
        difference, low, high, len(a), "" if math.isfinite(low) else "too few items for an interval"
    )


def group_results(results: Iterable[Result]) -> list[list[Result]]:
    """Group results that can be compared: of the same data set and task, in the order given."""
    groups: dict[tuple[str, str, str], list[Result]] = {}
    for result in results:
        key = (result.dataset.name, result.task, result.dataset.kind)
        groups.setdefault(key, []).append(result)
    return list(groups.values())


def _common(first: Result, a: Values, other: Result, b: Values) -> tuple[Values, Values]:
    """Reduce values per image to the images that both models could read."""
    if first.encoded is None or other.encoded is None or not (first.skipped or other.skipped):
        return a, b
    names = [
        [sample.item.key for sample in result.encoded.samples] for result in (first, other) if result.encoded
    ]
    if [len(a), len(b)] != [len(each) for each in names] or names[0] == names[1]:
        return a, b
    position = {name: i for i, name in enumerate(names[1])}
    pairs = [(i, position[name]) for i, name in enumerate(names[0]) if name in position]
    left, right = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return a[left], b[right]
