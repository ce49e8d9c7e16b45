"""Linear probe with CLIP_benchmark's schedule: AdamW on batches, with a weight decay chosen on validation images.

Random numbers are drawn in the same order as there, so that the figures are the same. There, the order of the training
images also depends on random numbers that were drawn before, such as those that initialize the model; here, it is the
first number drawn after the seed is set, as there when features are read from its cache.

Shapes: N images, C classes, D joint embedding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from oneclip.errors import DataError
from oneclip.evaluate.encoded import EncodedSplit
from oneclip.evaluate.logistic_regression import Labels, LinearClassifier


@dataclass(frozen=True)
class CompatSchedule:
    """Schedule of CLIP_benchmark's linear probe; the defaults are those of its command line.

    Attributes:
        shots: training images of each class; -1 for all.
        learning_rate: at the start; it falls to 0 like a cosine.
        epochs: over the training images.
        batch_size: training images per step.
    """

    shots: int = -1
    learning_rate: float = 0.1
    epochs: int = 10
    batch_size: int = 64


def fit_with_schedule(
    splits: Mapping[str, EncodedSplit], labels: Mapping[str, Labels], schedule: CompatSchedule, seed: int
) -> tuple[LinearClassifier, float]:
    """Train a classifier on the split "train".

    With a split "val", the weight decay is searched there, and the classifier is then trained on both splits, or, for
    a number of shots, on "train".

    Args:
        splits: of unit-length embeddings (N, D).
        labels: (N,) for each split.
        schedule: how to train.
        seed: of all random numbers; the state of the caller's generator is kept.

    Returns:
        the classifier, and the weight decay.

    Raises:
        DataError: if a class has fewer training images than shots.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        chosen = _draw(labels["train"], schedule.shots)
        train = _tensors(splits["train"], labels["train"])
        classes = int(train[1].max()) + 1
        train = tuple(part[chosen] for part in train)
        if "val" not in splits:
            return _train(train, classes, 0.0, schedule, seed), 0.0
        validation = _tensors(splits["val"], labels["val"])
        weight_decay = _search_weight_decay(train, validation, classes, schedule, seed)
        if schedule.shots < 0:
            train = tuple(torch.cat(parts) for parts in zip(train, validation, strict=True))
        return _train(train, classes, weight_decay, schedule, seed), weight_decay


def _tensors(split: EncodedSplit, labels: Labels) -> tuple[Tensor, ...]:
    return torch.tensor(split.embeddings, dtype=torch.float32), torch.from_numpy(labels)


def _draw(labels: Labels, shots: int) -> list[int]:
    """Draw the first `shots` images of each class in a random order; all images if it is negative."""
    counts: dict[int, int] = {}
    chosen: list[int] = []
    for row in torch.randperm(len(labels)).tolist():
        label = int(labels[row])
        counts.setdefault(label, 0)
        if shots < 0 or counts[label] < shots:
            counts[label] += 1
            chosen.append(row)
    if shots > 0 and min(counts.values()) < shots:
        raise DataError(
            f"a class has {min(counts.values())} training images; expected at least {shots} shots"
        )
    return chosen


def _search_weight_decay(
    train: tuple[Tensor, ...],
    validation: tuple[Tensor, ...],
    classes: int,
    schedule: CompatSchedule,
    seed: int,
) -> float:
    """Search the weight decay with the highest accuracy: seven values, then halved steps around the best."""
    values = np.logspace(-6, 2, num=97).tolist()
    coarse = np.logspace(-6, 2, num=7).tolist()
    accuracy: dict[int, float] = {}

    def best_of(indices: Sequence[int]) -> int:
        for index in indices:
            if index not in accuracy:
                classifier = _train(train, classes, values[index], schedule, seed)
                right = classifier.scores(validation[0]).topk(1).indices[:, 0] == validation[1]
                accuracy[index] = float(right.double().mean())
        best = max(indices, key=lambda index: accuracy[index])
        return best if accuracy[best] > 0 else 0

    peak = best_of([index for index, value in enumerate(values) if value in coarse])
    for span in (8, 4, 2, 1):
        peak = best_of([max(peak - span, 0), peak, min(peak + span, len(values) - 1)])
    return float(values[peak])


def _train(
    data: tuple[Tensor, ...], classes: int, weight_decay: float, schedule: CompatSchedule, seed: int
) -> LinearClassifier:
    """Train from the initialization of a seed, in float32."""
    torch.manual_seed(seed)
    layer = nn.Linear(data[0].shape[1], classes)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=schedule.learning_rate, weight_decay=weight_decay)
    loader = DataLoader(TensorDataset(*data), batch_size=schedule.batch_size, shuffle=True)
    steps = schedule.epochs * len(loader)
    for epoch in range(schedule.epochs):
        for number, (embeddings, labels) in enumerate(loader):
            share = (number + epoch * len(loader)) / steps
            optimizer.param_groups[0]["lr"] = 0.5 * (1 + math.cos(math.pi * share)) * schedule.learning_rate
            optimizer.zero_grad()
            F.cross_entropy(layer(embeddings), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return LinearClassifier(layer.weight.detach(), layer.bias.detach())
