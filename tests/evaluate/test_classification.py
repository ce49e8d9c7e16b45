"""Scores of zero-shot classification: accuracy, recall per class, calibration and groups."""

from __future__ import annotations

import math

import numpy as np
import pytest
from by_vectors import dataset_of, random_unit, split_of, text_encoder, unit
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

from oneclip.embed.items import Failure
from oneclip.errors import DataError, TextError
from oneclip.evaluate.encoded import Score
from oneclip.evaluate.statistics import bootstrap_interval
from oneclip.evaluate.zero_shot import score_zero_shot

CLASSES = list("abcdefg")
VECTORS = dict(zip(CLASSES, random_unit(len(CLASSES), seed=1), strict=True))
IMAGES = random_unit(200)
SCORES = IMAGES @ np.stack(list(VECTORS.values())).T
LABELS = np.where(
    np.arange(200) % 3 == 0, SCORES.argmax(axis=1), np.arange(200) % 6
)  # none of the last class


def score(classes: int = len(CLASSES), compat: bool = False, **columns: object) -> Score:
    split = split_of(IMAGES, label=(LABELS % classes).tolist(), **columns)
    names = CLASSES[:classes]
    return score_zero_shot(
        dataset_of(split, classes=names), split, text_encoder(VECTORS), templates=["{}"], compat=compat
    )


def test_accuracies_are_those_of_scikit_learn() -> None:
    result = score()
    assert result.metrics["acc1"] == pytest.approx(np.mean(SCORES.argmax(axis=1) == LABELS))
    top5 = top_k_accuracy_score(LABELS, SCORES, k=5, labels=range(len(CLASSES)))
    assert result.metrics["acc5"] == pytest.approx(top5)


@pytest.mark.filterwarnings("ignore:y_pred contains classes")
def test_recall_is_the_mean_over_the_classes_that_have_images() -> None:
    result = score()
    expected = balanced_accuracy_score(LABELS, SCORES.argmax(axis=1))
    assert result.metrics["mean_per_class_recall"] == pytest.approx(expected)
    assert list(result.per_class) == sorted(CLASSES[i] for i in set(LABELS))
    assert np.mean(list(result.per_class.values())) == pytest.approx(expected)


def test_fewer_than_five_classes_have_no_acc5() -> None:
    assert math.isnan(score(classes=4).metrics["acc5"])
    assert score(classes=5).metrics["acc5"] == 1.0


def test_items_have_the_metrics_as_their_means() -> None:
    result = score()
    assert result.items.keys() == {"acc1", "acc5", "mean_per_class_recall"} == result.intervals.keys()
    for name, values in result.items.items():
        assert len(values) == len(IMAGES)
        assert values.mean() == pytest.approx(result.metrics[name])
        low, high = result.intervals[name]
        assert low < result.metrics[name] < high
    assert result.intervals["acc1"] == bootstrap_interval(result.items["acc1"])


def test_predictions_have_the_probabilities_of_the_softmax() -> None:
    predictions = score().predictions
    assert predictions is not None
    weights = np.exp(10.0 * SCORES)
    expected = (weights / weights.sum(axis=1, keepdims=True)).max(axis=1)
    np.testing.assert_allclose(predictions.confidence, expected, rtol=1e-5)
    np.testing.assert_array_equal(predictions.top, np.argsort(-SCORES, axis=1)[:, :5])


def test_a_model_with_a_bias_has_the_probabilities_of_the_sigmoid() -> None:
    split = split_of(IMAGES, label=LABELS.tolist())
    text = text_encoder(VECTORS, bias=-2.0)
    result = score_zero_shot(dataset_of(split, classes=CLASSES), split, text, templates=["{}"])
    assert result.predictions is not None
    expected = 1 / (1 + np.exp(2.0 - 10.0 * SCORES.max(axis=1)))
    np.testing.assert_allclose(result.predictions.confidence, expected, rtol=1e-5)


@pytest.mark.parametrize(("compat", "accuracy"), [(False, 0.0), (True, 1.0)])
def test_a_class_that_ties_with_the_right_one_counts_against_the_model(compat: bool, accuracy: float) -> None:
    split = split_of(unit([[1, 0]]), label=[0])
    text = text_encoder({"a": unit([[1, 0]])[0], "b": unit([[1, 0]])[0]})
    dataset = dataset_of(split, classes=["a", "b"])
    result = score_zero_shot(dataset, split, text, templates=["{}"], compat=compat)
    assert result.metrics["acc1"] == accuracy
    assert result.predictions is not None
    assert (result.predictions.predicted[0] == 0) == compat


def test_the_worst_group_is_the_one_with_the_lowest_accuracy() -> None:
    groups = ["land" if row % 2 else "water" for row in range(200)]
    result = score(group=groups)
    correct = SCORES.argmax(axis=1) == LABELS
    expected = {name: correct[[group == name for group in groups]].mean() for name in ("land", "water")}
    assert result.metrics["worst_group_acc1"] == pytest.approx(min(expected.values()))
    assert {group["group"]: group["acc1"] for group in result.details["groups"]} == pytest.approx(expected)
    assert [group["count"] for group in result.details["groups"]] == [100, 100]


def test_compat_has_the_metrics_of_clip_benchmark_alone() -> None:
    found = score(compat=True, group=["a", "b"] * 100).metrics
    assert list(found) == ["acc1", "acc5", "mean_per_class_recall"]


def test_each_class_may_have_its_own_prompts() -> None:
    split = split_of(IMAGES, label=LABELS.tolist())
    dataset = dataset_of(split, classes=CLASSES)
    prompts = {name: [name] for name in CLASSES}
    result = score_zero_shot(dataset, split, text_encoder(VECTORS), templates=prompts)
    assert result.metrics == score().metrics
    with pytest.raises(TextError, match="no prompts for the class 'g'"):
        score_zero_shot(dataset, split, text_encoder(VECTORS), templates={**prompts, "g": []})


def test_data_that_cannot_be_classified_is_an_error() -> None:
    split = split_of(IMAGES[:2], label=[0, -1])
    text = text_encoder(VECTORS)
    with pytest.raises(DataError, match=r"1 images of generated have no class .* 1\.png"):
        score_zero_shot(dataset_of(split, classes=CLASSES), split, text, templates=["{}"])
    with pytest.raises(DataError, match="at least two classes for classification, and has only 'a'"):
        score_zero_shot(dataset_of(split, classes=["a"]), split, text, templates=["{}"])
    empty = split_of(IMAGES[:0], [Failure("x.png", "it is damaged")])
    with pytest.raises(DataError, match="no images to evaluate on; 1 could not be read: it is damaged"):
        score_zero_shot(dataset_of(empty, classes=CLASSES), empty, text, templates=["{}"])
