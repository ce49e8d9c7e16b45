"""Bootstrap intervals of means, and of the difference between two models (Efron and Tibshirani 1993, chapter 13).

Shapes: N items, U different values among them, R resamples.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from oneclip.errors import DataError

RESAMPLES = 2000
LEVEL = 0.95
DRAWS_IN_MEMORY = 1 << 22

Values = NDArray[np.float64]


def bootstrap_interval(values: ArrayLike, strata: ArrayLike | None = None) -> tuple[float, float]:
    """Compute the 95 % percentile interval of a mean.

    If all values are equal, the interval has no width; with few items, it is too narrow.

    Args:
        values: (N,) such as 1 for a correct answer and 0 for a wrong one.
        strata: (N,) integers; the items of each stratum are resampled among themselves, such as the images of a class.

    Returns:
        low and high, the same in each call; NaN for fewer than two items.
    """
    items = np.asarray(values, dtype=np.float64)
    if len(items) < 2:
        return float("nan"), float("nan")
    rng = np.random.default_rng(0)
    if strata is None:
        means = _resampled_means(items, rng)
    else:
        order = np.argsort(np.asarray(strata), kind="stable")
        _, starts = np.unique(np.asarray(strata)[order], return_index=True)
        parts = np.split(items[order], starts[1:])
        means = sum(len(part) / len(items) * _resampled_means(part, rng) for part in parts)  # type: ignore[assignment]
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def paired_difference(a: ArrayLike, b: ArrayLike) -> tuple[float, float, float]:
    """Compute the difference of two means over the same items, with its 95 % interval.

    Items on which both models agree do not widen the interval, so it is narrower than two separate intervals suggest.

    Args:
        a, b: (N,) values of two models for the same items, such as `Score.items` of a metric.

    Returns:
        mean of a - b, low and high; the difference is significant if 0 is not between low and high.

    Raises:
        DataError: if the models were not evaluated on the same number of items, or on none.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape or not len(first):
        raise DataError(
            f"the models have results for {len(first)} and {len(second)} items; expected the same items for both, such "
            "as images that both could read"
        )
    difference = first - second
    return float(difference.mean()), *bootstrap_interval(difference)


def _resampled_means(values: Values, rng: np.random.Generator) -> Values:
    """Draw R means of N values with replacement; counts of equal values are drawn together."""
    different, counts = np.unique(values, return_counts=True)
    if len(different) == 1:
        return np.full(RESAMPLES, different[0])
    at_once = max(1, DRAWS_IN_MEMORY // len(different))
    means = [
        rng.multinomial(len(values), counts / len(values), size=min(at_once, RESAMPLES - done)) @ different
        for done in range(0, RESAMPLES, at_once)
    ]
    result: Values = np.concatenate(means) / len(values)
    return result
