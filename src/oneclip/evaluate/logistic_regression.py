"""Multinomial logistic regression by full-batch L-BFGS, and the choice of its regularization.

Shapes: N images, C classes, D joint embedding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from oneclip.engine.thread_groups import get_thread_groups, run_in_groups
from oneclip.errors import DataError

CHUNK_ROWS = 16_384  # images whose logits are in memory at once
MAX_ITERATIONS = 1_000
FOLDS = 5
MAX_CROSS_VALIDATED = 20_000  # images; of more, one fold is held out instead of each in turn
COARSE_C = tuple(10.0**power for power in range(-1, 7))
REFINEMENTS = (0.5, 0.25)  # in powers of ten, around the best so far
VALIDATION_TOLERANCE = 1e-4  # of the gradient, where only accuracies are compared
SMALL = 1 << 26  # N x D x C; one thread computes a smaller step faster than several
DEFAULT_C = 100.0  # without an image to validate on; with so few images, accuracy hardly depends on it

Embeddings = NDArray[np.float32]
Labels = NDArray[np.int64]
Fold = tuple[Labels, Labels]
"""Indices of the images to fit, and of those to validate on."""


@dataclass(frozen=True)
class LinearClassifier:
    """Linear classifier of embeddings.

    Attributes:
        weight: (C, D), in the precision of the computation.
        bias: (C,); -inf for a class without a training image.
    """

    weight: Tensor
    bias: Tensor

    def scores(self, embeddings: Tensor) -> Tensor:
        """Compute the logits (N, C) of embeddings (N, D), all on the CPU."""
        return F.linear(embeddings.to(self.weight.dtype), self.weight, self.bias)


def fit_logistic_regression(
    embeddings: Embeddings,
    labels: Labels,
    classes: int,
    C: float,
    *,
    start: LinearClassifier | None = None,
    tolerance: float = 1e-6,
    device: str | torch.device = "cpu",
) -> LinearClassifier:
    """Minimize the summed cross-entropy times C plus half the squared norm of the weights, in float64.

    This is the objective of scikit-learn's `LogisticRegression(C=C)`, whose result is the same.

    Args:
        embeddings: (N, D).
        labels: (N,), each in [0, classes).
        classes: C; a class without images is never predicted.
        C: inverse regularization strength; the bias is not regularized.
        start: classifier to start from, such as the result for another C.
        tolerance: of the largest entry of the gradient of the mean.
        device: of the computation.

    Raises:
        DataError: if all images have one class.
    """
    fit = partial(_fit, embeddings, labels, classes, C, start, tolerance, device)
    if torch.device(device).type != "cpu" or embeddings.size * classes > SMALL:
        return fit()
    # threads would wait for each other in each of many small steps
    (classifier,) = get_thread_groups(1, 1).map(lambda compute: compute(), [fit])
    return classifier


def _fit(
    embeddings: Embeddings,
    labels: Labels,
    classes: int,
    C: float,
    start: LinearClassifier | None,
    tolerance: float,
    device: str | torch.device,
) -> LinearClassifier:
    """Fit in the calling thread; arguments as of `fit_logistic_regression`."""
    present, targets = np.unique(labels, return_inverse=True)
    if len(present) < 2:
        raise DataError(f"the images have {len(present)} class; expected at least two classes to tell apart")
    objective = _Objective(embeddings, targets, len(present), C, device)
    parameters = objective.start(start, present)
    optimizer = torch.optim.LBFGS(
        [parameters],
        max_iter=MAX_ITERATIONS,
        max_eval=2 * MAX_ITERATIONS,
        tolerance_grad=tolerance,
        tolerance_change=1e-14,  # the loss stops to change in float64
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def closure() -> float:
        loss, parameters.grad = objective(parameters)
        return loss

    with torch.no_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    return objective.classifier(parameters, present, classes)


class _Objective:
    """Loss and gradient of logistic regression.

    Embeddings are centred and divided by one number. This changes neither the minimum nor the meaning of C, since the
    bias is not regularized, but needs far fewer iterations: embeddings of a model lie in a narrow cone.
    """

    def __init__(
        self, embeddings: Embeddings, targets: Labels, classes: int, C: float, device: str | torch.device
    ) -> None:
        self.device, self.count = torch.device(device), len(embeddings)
        self.rows = torch.tensor(embeddings, device=self.device)  # (N, D) float32
        self.targets, self.classes = torch.from_numpy(targets).to(self.device), classes
        self.mean = self.rows.mean(dim=0, dtype=torch.float64)
        squares = [float((part.double() - self.mean).square().sum()) for part in _chunks(self.rows)]
        self.scale = math.sqrt(sum(squares) / self.rows.numel()) or 1.0
        # two weights w and -w have half the squared norm of the one weight 2w that scikit-learn has for two classes
        penalty = 2 if classes == 2 else 1
        self.penalty = penalty / (C * self.count * self.scale**2)

    def __call__(self, parameters: Tensor) -> tuple[float, Tensor]:
        """Return the mean loss, and its gradient (C, D + 1)."""
        weight, bias = parameters[:, :-1], parameters[:, -1]
        gradient, loss = torch.zeros_like(parameters), 0.0
        for part, target in zip(_chunks(self.rows), _chunks(self.targets), strict=True):
            centred = (part.double() - self.mean) / self.scale
            log_probabilities = F.log_softmax(F.linear(centred, weight, bias), dim=1)
            loss -= float(log_probabilities.gather(1, target[:, None]).sum())
            error = log_probabilities.exp_()
            error[torch.arange(len(target), device=self.device), target] -= 1
            gradient[:, :-1] += error.T @ centred
            gradient[:, -1] += error.sum(dim=0)
        gradient /= self.count
        gradient[:, :-1] += self.penalty * weight
        return loss / self.count + self.penalty / 2 * float(weight.square().sum()), gradient

    def start(self, classifier: LinearClassifier | None, present: Labels) -> Tensor:
        """Return the parameters (C, D + 1) of a classifier, or zeros."""
        if classifier is None:
            size = (self.classes, self.rows.shape[1] + 1)
            return torch.zeros(size, dtype=torch.float64, device=self.device)
        rows = torch.from_numpy(present)
        weight = classifier.weight[rows].to(self.device)
        bias = (classifier.bias[rows].to(self.device) + weight @ self.mean).nan_to_num(neginf=0.0)
        return torch.cat([weight * self.scale, bias[:, None]], dim=1)

    def classifier(self, parameters: Tensor, present: Labels, classes: int) -> LinearClassifier:
        """Convert parameters to a classifier of embeddings as they are."""
        weight = parameters[:, :-1] / self.scale
        bias = parameters[:, -1] - weight @ self.mean
        rows = torch.from_numpy(present)
        whole = LinearClassifier(
            torch.zeros(classes, weight.shape[1], dtype=torch.float64),
            torch.full((classes,), -torch.inf, dtype=torch.float64),
        )
        whole.weight[rows], whole.bias[rows] = weight.cpu(), bias.cpu()
        return whole


@dataclass(frozen=True)
class Regularization:
    """Regularization that was chosen.

    Attributes:
        C: inverse strength.
        accuracy: on the images that were held out; None if there were none.
        images: number of images that were held out.
    """

    C: float
    accuracy: float | None = None
    images: int = 0


def choose_regularization(
    embeddings: Embeddings,
    labels: Labels,
    classes: int,
    folds: Sequence[Fold],
    *,
    device: str | torch.device = "cpu",
) -> Regularization:
    """Choose C by the accuracy on images that are held out; the cross-entropy decides between equal ones.

    Powers of ten are tried first, then finer steps around the best.

    Args:
        embeddings, labels, classes, device: as of `fit_logistic_regression`.
        folds: indices of images to fit and to validate on; see `split_folds`. Without a fold, C is `DEFAULT_C`.
    """
    if not folds:
        return Regularization(DEFAULT_C)
    scores: dict[float, tuple[float, float]] = {}

    def try_all(values: Sequence[float]) -> float:
        for C, score in zip(
            values, _validate(embeddings, labels, classes, folds, values, device), strict=True
        ):
            scores[C] = score
        return max(scores, key=lambda C: scores[C])

    best = try_all(COARSE_C)
    for step in REFINEMENTS:
        best = try_all([best * 10**-step, best * 10**step])
    held_out = sum(len(validation) for _, validation in folds)
    return Regularization(best, scores[best][0] / held_out, held_out)


def _validate(
    embeddings: Embeddings,
    labels: Labels,
    classes: int,
    folds: Sequence[Fold],
    values: Sequence[float],
    device: str | torch.device,
) -> list[tuple[float, float]]:
    """Return the number of right predictions and the negative cross-entropy for each C, over all folds."""

    def validate(fold: Fold) -> Tensor:
        fitted, held_out = fold
        targets = torch.from_numpy(labels[held_out])
        found = torch.zeros(len(values), 2, dtype=torch.float64)
        classifier: LinearClassifier | None = None
        for i, C in enumerate(
            values
        ):  # from strong to weak regularization, each starting from the one before
            classifier = _fit(
                embeddings[fitted], labels[fitted], classes, C, classifier, VALIDATION_TOLERANCE, device
            )
            logits = classifier.scores(torch.from_numpy(embeddings[held_out]))
            found[i, 0] = (logits.argmax(dim=1) == targets).sum()
            found[i, 1] = -F.cross_entropy(logits, targets, reduction="sum")
        return found

    is_cpu = torch.device(device).type == "cpu"
    scores = torch.stack(run_in_groups(validate, folds, None if is_cpu else 1)).sum(dim=0)
    return [(right, likelihood) for right, likelihood in scores.tolist()]


def split_folds(labels: Labels, seed: int = 0) -> list[Fold]:
    """Divide images into folds with about the same number of images of each class.

    Each fold is held out in turn. The only image of a class is never held out.

    Args:
        labels: (N,) class of each image.
        seed: of the random division.

    Returns:
        up to 5 folds; 1 for more than 20,000 images; none if no class has two images.
    """
    fold = np.full(len(labels), -1)
    generator = np.random.default_rng(seed)
    for number, label in enumerate(np.unique(labels)):
        rows = generator.permutation(np.flatnonzero(labels == label))
        if len(rows) > 1:
            fold[rows] = (np.arange(len(rows)) + number) % FOLDS
    used = 1 if len(labels) > MAX_CROSS_VALIDATED else FOLDS
    divided = [(np.flatnonzero(fold != i), np.flatnonzero(fold == i)) for i in range(used)]
    return [(fitted, held_out) for fitted, held_out in divided if len(held_out)]


def _chunks(rows: Tensor) -> list[Tensor]:
    return [rows[start : start + CHUNK_ROWS] for start in range(0, len(rows), CHUNK_ROWS)]
