"""Few-shot classification: learn from a few images of each class, several times, and report mean and interval.

Shapes: N test images, K shots, S seeds, C classes, D joint embedding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oneclip.engine import resolve_device
from oneclip.errors import ConfigError, DataError
from oneclip.evaluate.classification import class_labels, embedding_batches, predict
from oneclip.evaluate.data.dataset import EvaluationDataset, Templates
from oneclip.evaluate.encoded import EncodedSplit, Predictions, Score, TextEncoder
from oneclip.evaluate.linear_probe import solver_device
from oneclip.evaluate.logistic_regression import (
    Embeddings,
    Labels,
    choose_regularization,
    fit_logistic_regression,
    split_folds,
)
from oneclip.evaluate.tip_adapter import make_tip_adapter
from oneclip.evaluate.zero_shot import dataset_classifier

MAX_VALIDATION = 4  # images of each class to choose settings with (Zhou et al. 2022, CoOp)
METHODS = ("linear", "tip-adapter")

Scores = Callable[[Tensor], Tensor]


class Draw(NamedTuple):
    """Images that were drawn to learn from.

    Attributes:
        embeddings, labels: K images of each class.
        validation, validation_labels: other images to choose settings with; may be empty.
    """

    embeddings: Embeddings
    labels: Labels
    validation: Embeddings
    validation_labels: Labels


def score_few_shot(
    dataset: EvaluationDataset,
    splits: Mapping[str, EncodedSplit],
    text: TextEncoder,
    *,
    templates: Templates,
    shots: Sequence[int] = (1, 2, 4, 8, 16),
    seeds: int = 3,
    method: Literal["linear", "tip-adapter"] = "linear",
) -> Score:
    """Learn from K images of each class of "train", and evaluate on "test".

    Regularization (of "linear"), or alpha and beta (of "tip-adapter"), are chosen on min(K, 4) other images of each
    class, drawn from "val", or without it from the rest of "train". If there are none, the linear probe is
    cross-validated on the K images, and Tip-Adapter uses the values of its paper.

    The images of a seed are the same for every model and method, and those of fewer shots are among those of more.

    Args:
        dataset: of the splits, with the names of the classes.
        splits: "train", "test" and maybe "val".
        text: text side of the model, for Tip-Adapter.
        templates: prompts, for Tip-Adapter.
        shots: the values of K; those that a class has too few images for are left out.
        seeds: how often images are drawn; the seeds are 0, 1, ….
        method: "linear", a linear probe; or "tip-adapter", which needs no training (Zhang et al. 2022).

    Returns:
        `acc1@K`, the mean over the seeds; its interval is Student's for the mean of S draws, cut at 0 and 1, the test
        images being the same. Predictions and accuracy per class are those of the most shots and seed 0. What was
        drawn and chosen is in `details`.

    Raises:
        ConfigError: for an unknown method, or fewer than one shot or seed.
        DataError: if the data set has fewer than two classes, or too few images for every K.
    """
    _check_options(shots, seeds, method)
    labels = {name: class_labels(dataset, split) for name, split in splits.items()}
    smallest = int(np.bincount(labels["train"], minlength=len(dataset.classes)).min())
    used = sorted({k for k in shots if k <= smallest})
    if not used:
        rarest = dataset.classes[int(np.bincount(labels["train"], minlength=len(dataset.classes)).argmin())]
        raise DataError(
            f"{dataset.name} has {smallest} training images of {rarest!r}; expected at least {min(shots)} of each "
            "class for that many shots"
        )
    weight = dataset_classifier(dataset, text, templates) if method == "tip-adapter" else None
    score = Score(
        {}, f"acc1@{used[-1]}", details={"method": method, "seeds": list(range(seeds)), "draws": []}
    )
    score.details["left_out"] = sorted({k for k in shots if k > smallest})
    for k in used:
        correct = np.zeros((seeds, len(splits["test"])))
        for seed in range(seeds):
            draw = draw_images(splits, labels, k, seed)
            if weight is None:
                learned, chosen = _fit_linear(draw, len(dataset.classes), seed)
            else:
                learned, chosen = _fit_tip_adapter(draw, weight, text.logit_scale)
            predictions = _predict(learned, splits["test"], labels["test"])
            correct[seed] = predictions.predicted == predictions.labels
            score.details["draws"].append(
                {"shots": k, "seed": seed, "acc1": float(correct[seed].mean()), **chosen}
            )
            if seed == 0:
                score.predictions = predictions
        name = f"acc1@{k}"
        score.metrics[name], score.items[name] = float(correct.mean()), correct.mean(axis=0)
        if seeds > 1:
            low, high = student_interval(correct.mean(axis=1))
            score.intervals[name] = max(low, 0.0), min(high, 1.0)  # as wide as all accuracies, for two draws
    assert score.predictions is not None
    score.per_class = _accuracy_per_class(dataset.classes, score.predictions)
    return score


def draw_images(
    splits: Mapping[str, EncodedSplit], labels: Mapping[str, Labels], shots: int, seed: int
) -> Draw:
    """Draw images of each class to learn from, and others to choose settings with; see `score_few_shot`."""
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(labels["train"]))
    place = _place_in_class(labels["train"][order])
    rows, count = order[place < shots], min(shots, MAX_VALIDATION)
    if "val" in splits:
        name, order = "val", generator.permutation(len(labels["val"]))
        others = order[_place_in_class(labels["val"][order]) < count]
    else:
        name, others = "train", order[(place >= shots) & (place < shots + count)]
    return Draw(
        splits["train"].embeddings[rows],
        labels["train"][rows],
        splits[name].embeddings[others],
        labels[name][others],
    )


def student_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return Student's 95 % interval of the mean of two or more values."""
    freedom = len(values) - 1
    angle = np.linspace(-math.pi / 2, math.pi / 2, 200_001)  # of a t value: t = sqrt(freedom) tan(angle)
    density = np.cos(angle).clip(0) ** (freedom - 1)
    quantile = math.sqrt(freedom) * math.tan(np.interp(0.975, np.cumsum(density) / density.sum(), angle))
    half = quantile * values.std(ddof=1) / math.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def _check_options(shots: Sequence[int], seeds: int, method: str) -> None:
    if method not in METHODS:
        raise ConfigError(f"method is {method!r}; expected {' or '.join(METHODS)}")
    if not shots or min(shots) < 1:
        raise ConfigError(f"shots is {tuple(shots)}; expected numbers of images, each at least 1")
    if seeds < 1:
        raise ConfigError(f"seeds is {seeds}; expected at least 1")


def _place_in_class(labels: Labels) -> Labels:
    """Return how many images of the same class come before each image."""
    place = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        place[rows] = np.arange(len(rows))
    return place


def _fit_linear(draw: Draw, classes: int, seed: int) -> tuple[Scores, dict[str, Any]]:
    """Fit a linear probe to the drawn images; validation images only choose the regularization."""
    device, count = solver_device(resolve_device(None)), len(draw.labels)
    embeddings = np.concatenate([draw.embeddings, draw.validation])
    labels = np.concatenate([draw.labels, draw.validation_labels])
    order = np.arange(len(labels))
    folds = [(order[:count], order[count:])] if len(labels) > count else split_folds(draw.labels, seed)
    chosen = choose_regularization(embeddings, labels, classes, folds, device=device)
    classifier = fit_logistic_regression(draw.embeddings, draw.labels, classes, chosen.C, device=device)
    return classifier.scores, {"C": chosen.C}


def _fit_tip_adapter(draw: Draw, weight: Tensor, logit_scale: float) -> tuple[Scores, dict[str, Any]]:
    validation = (torch.tensor(draw.validation), torch.from_numpy(draw.validation_labels))
    adapter = make_tip_adapter(
        weight,
        logit_scale,
        torch.tensor(draw.embeddings),
        torch.from_numpy(draw.labels),
        validation if len(draw.validation_labels) else None,
    )
    return adapter.scores, {"alpha": adapter.alpha, "beta": adapter.beta}


def _predict(scores: Scores, split: EncodedSplit, labels: Labels) -> Predictions:
    return predict(map(scores, embedding_batches(split)), labels, lambda batch: batch.softmax(dim=1))


def _accuracy_per_class(classes: Sequence[str], predictions: Predictions) -> dict[str, float]:
    correct = predictions.predicted == predictions.labels
    return {
        name: float(correct[predictions.labels == i].mean())
        for i, name in enumerate(classes)
        if (predictions.labels == i).any()
    }
