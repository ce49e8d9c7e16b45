"""Zero-shot classification of images that have several classes each: mean average precision.

Shapes: N images, C classes, D joint embedding.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from oneclip.errors import DataError
from oneclip.evaluate.classification import check_not_empty, embedding_batches
from oneclip.evaluate.data.dataset import EvaluationDataset, Templates
from oneclip.evaluate.encoded import EncodedSplit, Score, TextEncoder
from oneclip.evaluate.statistics import bootstrap_interval
from oneclip.evaluate.zero_shot import CLIP_BENCHMARK_SCALE, dataset_classifier

NAME = "mean_average_precision"
SCORES_IN_MEMORY = 1 << 26


def score_multilabel(
    dataset: EvaluationDataset,
    split: EncodedSplit,
    text: TextEncoder,
    *,
    templates: Templates,
    compat: bool = False,
) -> Score:
    """Rank the images of each class by their similarity to it, and compute the mean average precision.

    Args:
        dataset: with at least one class.
        split: N images; those without any class count as negatives of all classes.
        text: the text side of the model.
        templates: see `oneclip.evaluate.zero_shot_classifier`.
        compat: compute exactly as CLIP_benchmark, where a class without images has a precision of 0; otherwise it is
            left out, and an image that ties with an image of the class counts as ranked before it.

    Returns:
        `mean_average_precision`; its items and interval are over the classes.

    Raises:
        DataError: if there are no images or classes, no image has a class, or a class has no name.
        TextError: see `oneclip.evaluate.zero_shot_classifier`.
    """
    check_not_empty(dataset, split)
    if not dataset.classes:
        raise DataError(f"{dataset.name} has no class names; name them in a file (--classes)")
    positives: list[list[int]] = [[] for _ in dataset.classes]
    for row, sample in enumerate(split.samples):
        for label in sample.labels:
            if not 0 <= label < len(positives):
                raise DataError(
                    f"{sample.item.name} has the class {label}, and {dataset.name} has only {len(positives)} class "
                    "names, counted from 0"
                )
            positives[label].append(row)
    if not any(positives):
        raise DataError(f"no image of {dataset.name} has a class; expected at least one")
    weights = dataset_classifier(dataset, text, templates)
    factor = CLIP_BENCHMARK_SCALE if compat else 1.0
    at_once = max(1, SCORES_IN_MEMORY // len(split))
    precision: list[float] = []
    for first in range(0, len(positives), at_once):
        columns = weights[:, first : first + at_once]
        scores = np.concatenate([(factor * images @ columns).numpy() for images in embedding_batches(split)])
        precision += [
            average_precision(scores[:, i], rows, compat=compat)
            for i, rows in enumerate(positives[first : first + at_once])
        ]
    per_class = {
        name: value for name, value in zip(dataset.classes, precision, strict=True) if not math.isnan(value)
    }
    items = np.array(list(per_class.values()))
    metrics = {NAME: float(items.mean())}
    return Score(metrics, NAME, {NAME: items}, {NAME: bootstrap_interval(items)}, per_class)


def average_precision(scores: NDArray[np.float32], positives: list[int], *, compat: bool = False) -> float:
    """Compute the mean, over the images of a class, of the precision at their rank.

    Args:
        scores: (N,) of the images for the class.
        positives: rows of its images.
        compat: the order of ties is that of the images, and without any image the precision is 0; otherwise an image
            of another class comes before one of this class with the same score, and without any image it is NaN.
    """
    if not positives:
        return 0.0 if compat else math.nan
    positive = np.zeros(len(scores), dtype=bool)
    positive[positives] = True
    order = np.argsort(-scores, kind="stable") if compat else np.lexsort((positive, -scores))
    ranks = np.flatnonzero(positive[order])  # of the images of the class, from 0
    return float(np.mean(np.arange(1, len(ranks) + 1) / (ranks + 1)))
