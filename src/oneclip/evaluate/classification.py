"""Metrics of a classification, from the scores that a classifier gives to each class.

Shapes: N images, B images of a batch, C classes, K classes listed for each image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oneclip.errors import DataError
from oneclip.evaluate.calibration import calibration
from oneclip.evaluate.data.dataset import EvaluationDataset
from oneclip.evaluate.encoded import EncodedSplit, Predictions, Score
from oneclip.evaluate.recall import QUERY_CHUNK, as_tensor
from oneclip.evaluate.statistics import bootstrap_interval

TOP = 5  # classes listed for each image
METRICS = ("acc1", "acc5", "mean_per_class_recall", "ece", "worst_group_acc1")

Labels = NDArray[np.int64]


def class_labels(dataset: EvaluationDataset, split: EncodedSplit) -> Labels:
    """Return the class of each image (N,), after checking that a classification can be evaluated.

    Raises:
        DataError: if there are no images, fewer than two classes, or an image without a class.
    """
    if len(dataset.classes) < 2:
        found = f"only {dataset.classes[0]!r}" if dataset.classes else "none"
        raise DataError(
            f"{dataset.name} must have at least two classes for classification, and has {found}; name them in a "
            "file (--classes)"
        )
    check_not_empty(dataset, split)
    labels = np.array([sample.label for sample in split.samples], dtype=np.int64)
    wrong = np.flatnonzero((labels < 0) | (labels >= len(dataset.classes)))
    if len(wrong):
        item = split.samples[wrong[0]].item.name
        raise DataError(
            f"{len(wrong)} images of {dataset.name} have no class among its {len(dataset.classes)}, such as {item} "
            f"(label {labels[wrong[0]]})"
        )
    return labels


def check_not_empty(dataset: EvaluationDataset, split: EncodedSplit) -> None:
    """Raise DataError if no image of a split can be evaluated."""
    if not len(split):
        reason = f": {split.skipped[0].reason}" if split.skipped else ""
        raise DataError(
            f"{dataset.name} has no images to evaluate on; {len(split.skipped)} could not be read{reason}"
        )


def embedding_batches(split: EncodedSplit) -> Iterator[Tensor]:
    """Yield the embeddings of a split as (B, D) float32 tensors, copied from a mapped file."""
    for start in range(0, len(split), QUERY_CHUNK):
        yield as_tensor(split.embeddings[start : start + QUERY_CHUNK])


def predict(
    scores: Iterable[Tensor],
    labels: Labels,
    probabilities: Callable[[Tensor], Tensor],
    *,
    compat: bool = False,
) -> Predictions:
    """Predict the class with the highest score.

    A class that ties with the right one counts as ranked before it; with `compat`, the order of ties is torch's, as in
    CLIP_benchmark.

    Args:
        scores: batches (B, C) in the order of the images.
        labels: (N,) class of each image.
        probabilities: scores (B, C) to probabilities (B, C).
        compat: see above.
    """
    predicted, confidence, top, done = [], [], [], 0
    for batch in scores:
        right = torch.from_numpy(labels[done : done + len(batch), None])
        probability = probabilities(batch)
        if not compat:
            lower = torch.nextafter(batch.gather(1, right), torch.tensor(-torch.inf, dtype=batch.dtype))
            batch = batch.scatter(1, right, lower)
        best = batch.topk(min(TOP, batch.shape[1])).indices
        chosen = batch.argmax(dim=1) if compat else best[:, 0]
        predicted.append(chosen)
        confidence.append(probability.gather(1, chosen[:, None])[:, 0].float())
        top.append(best)
        done += len(batch)
    return Predictions(
        labels, torch.cat(predicted).numpy(), torch.cat(confidence).numpy(), torch.cat(top).numpy()
    )


def score_predictions(
    dataset: EvaluationDataset,
    split: EncodedSplit,
    predictions: Predictions,
    *,
    prefix: str = "",
    compat: bool = False,
) -> Score:
    """Compute accuracy, recall per class, calibration, and the accuracy of groups.

    Args:
        dataset: with the names of the classes.
        split: the images.
        predictions: for the images.
        prefix: of the metrics' names, such as "lp_".
        compat: only CLIP_benchmark's metrics.

    Returns:
        `acc1`, `acc5` (NaN with fewer than five classes) and `mean_per_class_recall`, over the classes that have
        images; without `compat` also `ece`, and `worst_group_acc1` if the images have groups. Groups and calibration
        are in `details`.
    """
    labels, rows = predictions.labels, len(predictions.labels)
    hits = predictions.top == labels[:, None]
    correct = (predictions.predicted == labels).astype(np.float64)
    counts = np.bincount(labels, minlength=len(dataset.classes))
    recall = np.bincount(labels, weights=correct, minlength=len(counts)) / np.maximum(counts, 1)
    present = counts > 0
    items = {"acc1": hits[:, 0].astype(np.float64)}
    if hits.shape[1] == TOP:
        items["acc5"] = hits.any(axis=1).astype(np.float64)
    # the mean of these over all images is the mean of the classes' recalls
    items["mean_per_class_recall"] = correct * rows / (present.sum() * counts[labels])
    intervals = {name: bootstrap_interval(values) for name, values in items.items()}
    intervals["mean_per_class_recall"] = bootstrap_interval(items["mean_per_class_recall"], strata=labels)
    metrics = {"acc5": math.nan} | {name: float(values.mean()) for name, values in items.items()}
    error, bins = calibration(predictions.confidence, correct)
    details: dict[str, Any] = {"calibration": bins}
    groups = _groups(split, correct)
    if groups:
        details["groups"] = groups
    if not compat:
        metrics["ece"] = error
        if groups:
            metrics["worst_group_acc1"] = groups[0]["acc1"]
    return Score(
        {f"{prefix}{name}": metrics[name] for name in METRICS if name in metrics},
        f"{prefix}acc1",
        {f"{prefix}{name}": values for name, values in items.items()},
        {f"{prefix}{name}": interval for name, interval in intervals.items()},
        {name: float(recall[i]) for i, name in enumerate(dataset.classes) if present[i]},
        predictions,
        details,
    )


def _groups(split: EncodedSplit, correct: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Compute the accuracy of each group, worst first; empty if the images have no groups."""
    names = np.array([sample.group for sample in split.samples], dtype=object)
    if not names.any():
        return []
    groups = []
    for name in sorted(set(names)):
        values = correct[names == name]
        low, high = bootstrap_interval(values)
        groups.append(
            {"group": name, "count": len(values), "acc1": float(values.mean()), "interval": [low, high]}
        )
    return sorted(groups, key=lambda group: group["acc1"])
