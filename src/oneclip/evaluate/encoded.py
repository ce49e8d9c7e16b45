"""Embeddings of a split, as tasks read them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oneclip.embed.items import Failure
from oneclip.evaluate.data.dataset import Sample

Embeddings = NDArray[np.float32]


@dataclass(frozen=True)
class EncodedSplit:
    """Embeddings of the images of a split that could be read.

    Attributes:
        embeddings: (N, D) float32 of unit length; may be mapped from a file.
        samples: N, in the order of the data set.
        skipped: images that could not be used, with the reason.
    """

    embeddings: Embeddings
    samples: Sequence[Sample]
    skipped: Sequence[Failure] = ()

    def __len__(self) -> int:
        return len(self.samples)


@dataclass(frozen=True)
class TextEncoder:
    """The text side of a model, and how its cosines become logits.

    Attributes:
        encode: texts to (M, D) float32 embeddings of unit length; texts that are too long are cut.
        logit_scale: factor of the cosines.
        logit_bias: added to the logits; None for a model with the softmax loss.
    """

    encode: Callable[[Sequence[str]], Embeddings]
    logit_scale: float
    logit_bias: float | None = None


@dataclass(frozen=True)
class Predictions:
    """What was predicted for each image of a classification, for reports and comparisons.

    Attributes:
        labels: (N,) index of the right class.
        predicted: (N,) index of the predicted class.
        confidence: (N,) probability of the predicted class.
        top: (N, K) the classes with the highest scores, best first.
    """

    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float32]
    top: NDArray[np.int64]


@dataclass
class Score:
    """What a task computes from embeddings.

    Attributes:
        metrics: by CLIP_benchmark's names (`acc1`, `image_retrieval_recall@5`, …); NaN where a metric is not defined.
        headline: key of the main metric; higher is better.
        items: for each metric with an interval, its value for each of the N items (images, texts or classes) that it
            is the mean of, as (N,) float64; see `oneclip.evaluate.statistics`. Two models that are evaluated on the
            same items are compared item by item.
        intervals: 95 % intervals of metrics, as (low, high).
        per_class: main metric of each class by its name.
        predictions: of a classification.
        details: anything else for reports and `--json`, such as the regularization that was chosen; JSON values.
    """

    metrics: dict[str, float]
    headline: str
    items: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    per_class: dict[str, float] = field(default_factory=dict)
    predictions: Predictions | None = None
    details: dict[str, Any] = field(default_factory=dict)
