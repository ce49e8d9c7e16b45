"""Few-shot classification: what is drawn, what is learned, and the mean and interval over draws."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from by_vectors import dataset_of, random_unit, split_of, text_encoder, unit

from oneclip.errors import ConfigError, DataError
from oneclip.evaluate.encoded import EncodedSplit, Score
from oneclip.evaluate.few_shot import draw_images, score_few_shot, student_interval
from oneclip.evaluate.logistic_regression import fit_logistic_regression
from oneclip.evaluate.tip_adapter import ALPHAS, BETAS, TipAdapter, make_tip_adapter

CLASSES = ["a", "b", "c"]
CENTRES = random_unit(3, seed=4)
TEXTS = text_encoder(dict(zip(CLASSES, unit(CENTRES + 0.5 * random_unit(3, seed=5)), strict=True)))


def split(count: int, seed: int) -> EncodedSplit:
    """Make a split with `count` images of each class."""
    labels = np.repeat(np.arange(3), count)
    noise = 0.3 * np.random.default_rng(seed).normal(size=(len(labels), 8))
    return split_of(unit(CENTRES[labels] + noise), label=labels.tolist())


TRAIN, TEST = split(12, 0), split(20, 1)


def few_shot(**options: Any) -> Score:
    splits = options.pop("splits", {"train": TRAIN, "test": TEST})
    return score_few_shot(
        dataset_of(TEST, classes=CLASSES), splits, TEXTS, **{"templates": ["{}"], "shots": (1, 4), **options}
    )


def labels_of(splits: dict[str, EncodedSplit]) -> dict[str, Any]:
    return {name: np.array([sample.label for sample in part.samples]) for name, part in splits.items()}


@pytest.mark.parametrize("shots", [1, 4, 6])
def test_a_draw_has_as_many_images_of_each_class_and_at_most_four_others(shots: int) -> None:
    splits = {"train": TRAIN}
    draw = draw_images(splits, labels_of(splits), shots, 0)
    assert np.bincount(draw.labels).tolist() == [shots] * 3
    assert np.bincount(draw.validation_labels).tolist() == [min(shots, 4)] * 3
    drawn = {row.tobytes() for row in draw.embeddings}
    assert len(drawn) == 3 * shots
    assert not drawn & {row.tobytes() for row in draw.validation}


def test_images_to_choose_settings_are_drawn_from_val() -> None:
    splits = {"train": TRAIN, "val": split(5, 2)}
    draw = draw_images(splits, labels_of(splits), 2, 0)
    known = {row.tobytes() for row in splits["val"].embeddings}
    assert len(draw.validation) == 6
    assert all(row.tobytes() in known for row in draw.validation)


def test_more_shots_contain_the_images_of_fewer_and_another_seed_draws_others() -> None:
    splits = {"train": TRAIN}
    labels = labels_of(splits)
    drawn = [
        {row.tobytes() for row in draw_images(splits, labels, shots, seed).embeddings}
        for shots, seed in ((2, 0), (5, 0), (5, 1))
    ]
    assert drawn[0] < drawn[1] != drawn[2]


def test_the_mean_over_the_seeds_is_reported_with_students_interval() -> None:
    score = few_shot(seeds=4)
    for shots in (1, 4):
        each = [draw["acc1"] for draw in score.details["draws"] if draw["shots"] == shots]
        assert len(each) == 4
        assert score.metrics[f"acc1@{shots}"] == pytest.approx(np.mean(each))
        assert score.items[f"acc1@{shots}"].mean() == pytest.approx(np.mean(each))
        half = 3.182446 * np.std(each, ddof=1) / 2  # t of 3 degrees of freedom
        expected = np.clip([np.mean(each) - half, np.mean(each) + half], 0, 1)
        assert score.intervals[f"acc1@{shots}"] == pytest.approx(expected)
    assert score.headline == "acc1@4"
    assert json.dumps(score.details)


def test_intervals_stay_within_0_and_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oneclip.evaluate.few_shot.student_interval", lambda values: (-0.4, 1.2))
    assert few_shot(shots=(1,), seeds=2).intervals["acc1@1"] == (0.0, 1.0)


def test_one_seed_has_no_interval() -> None:
    assert few_shot(seeds=1).intervals == {}


@pytest.mark.parametrize(("count", "quantile"), [(2, 12.7062), (3, 4.302653), (31, 2.042272)])
def test_students_interval(count: int, quantile: float) -> None:
    values = np.arange(count, dtype=np.float64)
    half = quantile * values.std(ddof=1) / np.sqrt(count)
    assert student_interval(values) == pytest.approx((values.mean() - half, values.mean() + half), rel=1e-3)


def test_the_linear_probe_learns_from_the_drawn_images_only() -> None:
    score = few_shot(shots=(4,), seeds=1)
    splits = {"train": TRAIN, "test": TEST}
    draw, labels = draw_images(splits, labels_of(splits), 4, 0), labels_of(splits)["test"]
    by_hand = fit_logistic_regression(draw.embeddings, draw.labels, 3, score.details["draws"][0]["C"])
    found = by_hand.scores(torch.from_numpy(TEST.embeddings)).argmax(dim=1).numpy()
    assert score.predictions is not None
    assert score.predictions.predicted.tolist() == found.tolist()
    assert score.metrics["acc1@4"] == np.mean(found == labels)
    assert score.per_class["a"] == np.mean(found[labels == 0] == 0)


@pytest.mark.parametrize("method", ["linear", "tip-adapter"])
def test_all_images_can_be_drawn(method: str) -> None:
    score = few_shot(shots=(12,), seeds=1, method=method)
    assert score.metrics["acc1@12"] > 0.6


def test_shots_that_a_class_is_too_small_for_are_left_out() -> None:
    score = few_shot(shots=(1, 16), seeds=1)
    assert list(score.metrics) == ["acc1@1"]
    assert score.details["left_out"] == [16]
    with pytest.raises(DataError, match="12 training images of 'a'; expected at least 16"):
        few_shot(shots=(16,))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "svm"}, "method is 'svm'; expected linear or tip-adapter"),
        ({"shots": (0, 1)}, r"shots is \(0, 1\)"),
        ({"seeds": 0}, "seeds is 0"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        few_shot(**options)


def test_tip_adapter_adds_the_affinity_of_each_cached_image_to_the_logits() -> None:
    weight, images = torch.from_numpy(CENTRES).T, torch.from_numpy(random_unit(2))
    keys, values = torch.from_numpy(random_unit(4, seed=9)), torch.eye(3)[[0, 0, 1, 2]]
    scores = TipAdapter(weight, 50.0, keys, values, alpha=2.0, beta=3.0).scores(images)
    for n in range(2):
        for label in range(3):
            members = [k for k in range(4) if values[k, label]]
            cached = sum(np.exp(-3.0 * (1 - float(images[n] @ keys[k]))) for k in members)
            assert float(scores[n, label]) == pytest.approx(
                50 * float(images[n] @ weight[:, label]) + 2 * cached, rel=1e-5
            )


def test_tip_adapter_is_searched_on_validation_images() -> None:
    splits = {"train": TRAIN}
    draw = draw_images(splits, labels_of(splits), 4, 0)
    weight = torch.from_numpy(CENTRES[[1, 2, 0]]).T  # texts that are of no use
    images, targets = torch.from_numpy(draw.validation), torch.from_numpy(draw.validation_labels)
    keys, values = torch.from_numpy(draw.embeddings), torch.from_numpy(draw.labels)
    found = make_tip_adapter(weight, 10.0, keys, values, (images, targets))

    def accuracy(alpha: float, beta: float) -> float:
        adapter = TipAdapter(weight, 10.0, keys, torch.eye(3)[values], alpha, beta)
        return float((adapter.scores(images).argmax(dim=1) == targets).double().mean())

    assert accuracy(found.alpha, found.beta) == max(
        accuracy(alpha, beta) for alpha in ALPHAS for beta in BETAS
    )
    assert accuracy(found.alpha, found.beta) > accuracy(0.0, 1.0)
    default = make_tip_adapter(weight, 10.0, keys, values)
    assert (default.alpha, default.beta) == (1.0, 5.5)
