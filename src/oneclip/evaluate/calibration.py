"""Calibration: does a confidence of 80 % mean that 80 % are correct?"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

BINS = 15


def calibration(confidence: ArrayLike, correct: ArrayLike) -> tuple[float, list[dict[str, Any]]]:
    """Compute the expected calibration error over 15 bins of equal width (Guo et al. 2017, section 2).

    Args:
        confidence: (N,) probability of each prediction, from 0 to 1.
        correct: (N,) whether it is correct.

    Returns:
        the mean distance of confidence and accuracy, weighted by the number of images in each bin; and the bins from
        low to high: `low`, `high`, `count`, and the mean `confidence` and `accuracy`, which are None in an empty bin.
    """
    sure, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    edges = np.linspace(0, 1, BINS + 1)
    number = np.searchsorted(edges[1:-1], sure)  # a bin contains its upper edge
    bins: list[dict[str, Any]] = []
    error = 0.0
    for i in range(BINS):
        inside = number == i
        count = int(inside.sum())
        mean, accuracy = (float(sure[inside].mean()), float(right[inside].mean())) if count else (None, None)
        if mean is not None and accuracy is not None:
            error += count / len(sure) * abs(mean - accuracy)
        bins.append(
            {
                "low": float(edges[i]),
                "high": float(edges[i + 1]),
                "count": count,
                "confidence": mean,
                "accuracy": accuracy,
            }
        )
    return error, bins
