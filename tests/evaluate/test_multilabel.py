"""Mean average precision of images with several classes."""

from __future__ import annotations

import numpy as np
import pytest
from by_vectors import dataset_of, random_unit, split_of, text_encoder
from sklearn.metrics import average_precision_score

from oneclip.errors import DataError
from oneclip.evaluate import multilabel
from oneclip.evaluate.encoded import Score
from oneclip.evaluate.multilabel import average_precision, score_multilabel

CLASSES = ["cat", "dog", "cow", "ant"]
VECTORS = dict(zip(CLASSES, random_unit(len(CLASSES), seed=1), strict=True))
IMAGES = random_unit(100)
POSITIVE = np.random.default_rng(2).random((100, len(CLASSES))) < [0.5, 0.1, 0.3, 0.0]  # no ants


def score(compat: bool = False) -> Score:
    split = split_of(IMAGES, labels=[tuple(np.flatnonzero(row)) for row in POSITIVE])
    dataset = dataset_of(split, "multilabel", CLASSES)
    return score_multilabel(dataset, split, text_encoder(VECTORS), templates=["{}"], compat=compat)


def expected() -> dict[str, float]:
    scores = {name: IMAGES @ VECTORS[name] for name in CLASSES}
    return {name: average_precision_score(POSITIVE[:, i], scores[name]) for i, name in enumerate(CLASSES[:3])}


def test_precision_is_that_of_scikit_learn_over_the_classes_with_images() -> None:
    result = score()
    assert result.per_class == pytest.approx(expected())
    assert result.metrics["mean_average_precision"] == pytest.approx(np.mean(list(expected().values())))


def test_with_compat_a_class_without_images_has_a_precision_of_zero() -> None:
    result = score(compat=True)
    assert result.metrics["mean_average_precision"] == pytest.approx(sum(expected().values()) / 4)


def test_classes_are_scored_in_blocks_that_fit_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = score()
    monkeypatch.setattr(multilabel, "SCORES_IN_MEMORY", 250)  # two classes at once
    assert score().per_class == pytest.approx(whole.per_class)


def test_a_negative_that_ties_comes_before_a_positive() -> None:
    scores = np.array([0.5, 0.5, 0.1], dtype=np.float32)
    assert average_precision(scores, [0]) == pytest.approx(1 / 2)
    assert average_precision(scores, [0], compat=True) == 1.0


def test_images_without_any_class_are_an_error() -> None:
    split = split_of(IMAGES)
    with pytest.raises(DataError, match="no image of generated has a class"):
        score_multilabel(
            dataset_of(split, "multilabel", CLASSES), split, text_encoder(VECTORS), templates=["{}"]
        )
    with pytest.raises(DataError, match="has no class names"):
        score_multilabel(dataset_of(split, "multilabel"), split, text_encoder(VECTORS), templates=["{}"])


def test_a_class_without_a_name_is_an_error() -> None:
    split = split_of(IMAGES[:2], labels=[(0,), (1, 4)])
    dataset = dataset_of(split, "multilabel", CLASSES)
    with pytest.raises(DataError, match=r"1\.png has the class 4, and generated has only 4 class names"):
        score_multilabel(dataset, split, text_encoder(VECTORS), templates=["{}"])
