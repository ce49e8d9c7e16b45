"""LinearProbe, the solver behind it, and the linear probe of an evaluation."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from by_vectors import dataset_of, random_unit, split_of
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from tiny import DIM, picture, write_tiny_model

import oneclip
from oneclip.encoder import Encoder
from oneclip.errors import CheckpointError, ConfigError, DataError, OutputError, ShapeError
from oneclip.evaluate.linear_probe import CompatSchedule, score_linear_probe
from oneclip.evaluate.logistic_regression import (
    DEFAULT_C,
    choose_regularization,
    fit_logistic_regression,
    split_folds,
)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return oneclip.load(write_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny.safetensors"))


def clusters(count: int, classes: int, dim: int = DIM, seed: int = 0) -> tuple[Any, Any]:
    """Return unit rows in a narrow cone, around a centre of each class, and their labels."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(classes, size=count)
    rows = 3 + np.random.default_rng(99).normal(size=(classes, dim))[labels] + draw.normal(size=(count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), labels


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("C", [0.5, 300.0])
def test_the_weights_are_those_of_scikit_learn(classes: int, C: float) -> None:
    rows, labels = clusters(90, classes)
    found = fit_logistic_regression(rows, labels, classes, C, tolerance=1e-10)
    expected = LogisticRegression(C=C, tol=1e-10, max_iter=10_000).fit(rows.astype(np.float64), labels)
    weight, bias = found.weight.numpy(), found.bias.numpy()
    intercept = expected.intercept_
    if classes == 2:  # scikit-learn has one row for two classes
        weight, bias = weight[1:] - weight[:1], bias[1:] - bias[:1]
    else:
        bias, intercept = (
            bias - bias.mean(),
            intercept - intercept.mean(),
        )  # one number added to all changes nothing
    for ours, theirs in ((weight, expected.coef_), (bias, intercept)):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


def test_the_same_weights_from_another_start() -> None:
    rows, labels = clusters(60, 3)
    first = fit_logistic_regression(rows, labels, 3, 1.0, tolerance=1e-10)
    start = fit_logistic_regression(rows, labels, 3, 100.0)
    again = fit_logistic_regression(rows, labels, 3, 1.0, start=start, tolerance=1e-10)
    assert torch.allclose(first.weight, again.weight, atol=1e-6)


def test_a_class_without_images_is_never_predicted() -> None:
    rows, labels = clusters(40, 2)
    found = fit_logistic_regression(rows, labels * 2, 3, 1.0)
    assert found.scores(torch.from_numpy(rows))[:, 1].eq(-torch.inf).all()


def test_chunks_do_not_change_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, labels = clusters(50, 3)
    whole = fit_logistic_regression(rows, labels, 3, 10.0)
    monkeypatch.setattr("oneclip.evaluate.logistic_regression.CHUNK_ROWS", 7)
    assert torch.allclose(fit_logistic_regression(rows, labels, 3, 10.0).weight, whole.weight, atol=1e-6)


def test_folds_hold_out_each_image_once_except_the_only_one_of_a_class() -> None:
    labels = np.array([0] * 7 + [1] * 5 + [2])
    folds = split_folds(labels)
    held_out = np.concatenate([validation for _, validation in folds])
    assert sorted(held_out) == list(range(12))
    assert all(set(labels[fitted]) == {0, 1, 2} for fitted, _ in folds)
    assert split_folds(np.arange(4)) == []


def test_regularization_is_the_best_on_held_out_images() -> None:
    rows, labels = clusters(60, 3)
    folds = split_folds(labels)
    chosen = choose_regularization(rows, labels, 3, folds)

    def accuracy(C: float) -> float:
        right = 0
        for fitted, held_out in folds:
            found = fit_logistic_regression(rows[fitted], labels[fitted], 3, C)
            right += int(
                (found.scores(torch.from_numpy(rows[held_out])).argmax(1).numpy() == labels[held_out]).sum()
            )
        return right / len(labels)

    assert chosen.images == 60
    assert chosen.accuracy == pytest.approx(accuracy(chosen.C), abs=0.02)
    assert chosen.accuracy >= max(map(accuracy, (0.1, 10.0, 1e4))) - 0.02


def test_five_images_per_class_are_enough(encoder: Encoder) -> None:
    rows, labels = clusters(400, 3)
    few = np.concatenate([np.flatnonzero(labels == label)[:5] for label in range(3)])
    probe = oneclip.LinearProbe(encoder).fit(rows[few], labels[few])
    assert probe.made_by["images"] == probe.made_by["held_out"] == 15
    assert np.mean(np.array(probe.predict(rows)) == labels) > 0.8


def test_one_image_per_class_is_accepted(encoder: Encoder) -> None:
    probe = oneclip.LinearProbe(encoder).fit(random_unit(3, DIM), ["a", "b", "c"])
    assert (probe.C, probe.accuracy) == (DEFAULT_C, None)
    assert probe.predict(random_unit(3, DIM)) == ["a", "b", "c"]


def test_images_are_encoded_by_the_model(encoder: Encoder) -> None:
    images = [picture(seed) for seed in range(6)]
    labels = ["dark", "light"] * 3
    probe = oneclip.LinearProbe(encoder, C=1e4).fit(images, labels)
    by_hand = oneclip.LinearProbe(encoder, C=1e4).fit(encoder.encode_images(images), labels)
    assert probe.predict(images) == by_hand.predict(images) == labels
    np.testing.assert_allclose(probe.probabilities(images), by_hand.probabilities(images), atol=1e-6)


def test_probabilities_are_a_softmax_in_the_order_of_the_classes(encoder: Encoder) -> None:
    rows, labels = clusters(60, 3)
    probe = oneclip.LinearProbe(encoder, C=10.0).fit(rows, [f"class {label}" for label in labels])
    found = probe.probabilities(rows)
    expected = LogisticRegression(C=10.0, tol=1e-8, max_iter=1000).fit(rows.astype(np.float64), labels)
    assert probe.classes == ["class 0", "class 1", "class 2"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.predict_proba(rows.astype(np.float64)), atol=1e-4)


def test_regularization_is_chosen_on_validation_images_and_all_images_are_fitted(encoder: Encoder) -> None:
    rows, labels = clusters(80, 3)
    probe = oneclip.LinearProbe(encoder).fit(rows[:50], labels[:50], validation=(rows[50:], labels[50:]))
    whole = oneclip.LinearProbe(encoder, C=probe.C).fit(rows, labels)
    assert probe.made_by["held_out"] == 30
    np.testing.assert_allclose(probe.probabilities(rows), whole.probabilities(rows), atol=1e-6)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (3, ["a", "b"], "3 images and 2 labels given"),
        (2, ["a", "a"], "found one class, 'a'; expected images of at least two classes"),
        (0, [], "found no labels"),
        (2, ["a", 1], "labels are of type int and str"),
        (2, [0.5, 1.5], "labels are of type float"),
        (2, [True, False], "labels are of type bool"),
        (3, ["a", "", "b"], "label 1 is empty"),
        (2, "ab", "labels is the string 'ab'"),
    ],
)
def test_unusable_labels(encoder: Encoder, images: int, labels: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        oneclip.LinearProbe(encoder).fit(random_unit(max(images, 1), DIM)[:images], labels)


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        (([], []), "validation has no labels"),
        ((random_unit(1, DIM), ["c"]), "the validation label 'c' is not a class of the images to learn from"),
        ((random_unit(1, DIM), [1]), "the validation label 1 is not a class"),
        ((random_unit(2, DIM), ["a"]), "2 validation images and 1 labels given"),
        (random_unit(3, DIM), "validation is not a pair"),
    ],
)
def test_unusable_validation(encoder: Encoder, validation: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        oneclip.LinearProbe(encoder).fit(random_unit(2, DIM), ["a", "b"], validation=validation)


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        (
            np.zeros((2, DIM + 1), np.float32),
            f"embeddings have {DIM + 1} dimensions, the probe expects {DIM}",
        ),
        (torch.zeros(2, 7), f"embeddings have 7 dimensions, the probe expects {DIM}"),
        ([np.zeros(7), np.zeros(7)], f"embeddings have 7 dimensions, the probe expects {DIM}"),
        ([np.zeros(7), np.zeros(8)], f"have 7 and 8 dimensions; expected {DIM}"),
        (np.zeros(DIM), rf"one vector of {DIM} numbers; expected embeddings \(N, {DIM}\)"),
        (np.array([[0.0] * DIM, [np.nan] * DIM]), "embedding 1 has values that are not finite"),
    ],
)
def test_unusable_embeddings(encoder: Encoder, embeddings: Any, message: str) -> None:
    probe = oneclip.LinearProbe(encoder).fit(random_unit(2, DIM), ["a", "b"])
    with pytest.raises(ShapeError, match=message):
        probe.predict(embeddings)
    with pytest.raises(ShapeError, match=message):
        oneclip.LinearProbe(encoder).fit(embeddings, ["a", "b"])


def test_embeddings_may_be_arrays_tensors_and_lists_of_vectors(encoder: Encoder) -> None:
    rows = random_unit(4, DIM)
    probe = oneclip.LinearProbe(encoder, C=10.0).fit(rows, ["a", "b", "c", "d"])
    for given in (
        rows.astype(np.float64),
        torch.from_numpy(rows),
        list(rows),
        tuple(torch.from_numpy(2 * rows)),
    ):
        assert probe.predict(given) == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"C": "a"}, "C is 'a'; expected a number above 0"),
        ({"C": -1.0}, "C is -1.0"),
        ({"C": math.inf}, "C is inf"),
        ({"C": True}, "C is True"),
        ({"seed": -1}, "seed is -1"),
        ({"batch_size": 0.5}, "batch_size is 0.5"),
    ],
)
def test_options_of_a_probe_out_of_range(encoder: Encoder, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        oneclip.LinearProbe(encoder, **options)


def test_a_probe_that_is_not_fitted(encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not fitted"):
        oneclip.LinearProbe(encoder).predict([picture()])
    with pytest.raises(ConfigError, match="not fitted"):
        oneclip.LinearProbe(encoder).save(tmp_path / "my.probe")


@pytest.fixture
def saved(encoder: Encoder, tmp_path: Path) -> Path:
    rows, labels = clusters(30, 3)
    oneclip.LinearProbe(encoder, C=10.0).fit(rows, labels).save(tmp_path / "my.probe")
    return tmp_path / "my.probe"


def test_a_saved_probe_predicts_the_same(encoder: Encoder, saved: Path) -> None:
    rows, labels = clusters(30, 3)
    probe = oneclip.LinearProbe(encoder, C=10.0).fit(rows, labels)
    for again in (oneclip.LinearProbe.load(saved, encoder), oneclip.LinearProbe.load(saved)):
        assert again.classes == [0, 1, 2]
        assert again.made_by == probe.made_by
        assert np.array_equal(again.probabilities(rows), probe.probabilities(rows))


def test_classes_keep_their_names_and_types_in_a_file(encoder: Encoder, tmp_path: Path) -> None:
    rows, _ = clusters(4, 2)
    oneclip.LinearProbe(encoder).fit(rows, ["äpfel", "true", "äpfel", "true"]).save(tmp_path / "x")
    assert oneclip.LinearProbe.load(tmp_path / "x", encoder).classes == ["true", "äpfel"]


def test_another_model_is_refused_by_its_weights(saved: Path, tmp_path: Path) -> None:
    other = oneclip.load(write_tiny_model(tmp_path / "other.safetensors", seed=1))
    with pytest.raises(
        DataError,
        match=r"made with model \S*tiny\.safetensors, not \S*other\.safetensors \(.*weights .*, not",
    ):
        oneclip.LinearProbe.load(saved, other)


def test_another_precision_is_refused(saved: Path, encoder: Encoder) -> None:
    with pytest.raises(DataError, match="precision fp32, not bf16"):
        oneclip.LinearProbe.load(saved, oneclip.load(encoder.name, precision="bf16"))


@pytest.mark.parametrize("content", ["", "mine", "no probe" * 9])
def test_a_file_that_is_not_a_probe(tmp_path: Path, encoder: Encoder, content: str) -> None:
    with pytest.raises(CheckpointError, match="is not a linear probe"):
        oneclip.LinearProbe.load(encoder.name, encoder)
    with pytest.raises(CheckpointError, match="is not a file"):
        oneclip.LinearProbe.load(tmp_path / "nowhere", encoder)
    (tmp_path / "text").write_text(content)
    with pytest.raises(CheckpointError):
        oneclip.LinearProbe.load(tmp_path / "text", encoder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": [0, 1]}, "2 classes, weights"),
        ({"classes": None}, "description is incomplete"),
        ({"format": 2}, "format 2; this version reads format 1"),
        ({"embeddings": {}}, "description is incomplete"),
    ],
)
def test_a_damaged_description(saved: Path, encoder: Encoder, change: dict[str, Any], message: str) -> None:
    from safetensors import safe_open

    with safe_open(saved, framework="pt") as file:
        description = json.loads(file.metadata()["oneclip_probe"])
    save_file(load_file(saved), saved, {"oneclip_probe": json.dumps(description | change)})
    with pytest.raises(CheckpointError, match=message):
        oneclip.LinearProbe.load(saved, encoder)


def test_a_file_that_cannot_be_written(encoder: Encoder, tmp_path: Path) -> None:
    probe = oneclip.LinearProbe(encoder).fit(random_unit(2, DIM), ["a", "b"])
    with pytest.raises(OutputError, match="could not be written"):
        probe.save(tmp_path / "nowhere" / "my.probe")


def test_pocket_learns_digits() -> None:
    digits = load_digits()
    images = [
        np.repeat(255 - 15.9 * image[:, :, None], 3, axis=2).astype(np.uint8) for image in digits.images[::8]
    ]
    labels = digits.target[::8]  # 225 of 1,797; docs/probe.md has the figure for all
    encoder = oneclip.load("pocket")
    if encoder.embed_dim == DIM:
        pytest.skip("the weights of pocket are missing")
    embeddings = encoder.encode_images(images)
    learned, measured = np.arange(225) % 3 != 2, np.arange(225) % 3 == 2
    probe = oneclip.LinearProbe(encoder).fit(embeddings[learned], labels[learned])
    assert np.mean(np.array(probe.predict(embeddings[measured])) == labels[measured]) >= 0.9


def test_the_score_of_an_evaluation_is_that_of_a_probe(encoder: Encoder) -> None:
    train, labels = clusters(60, 3)
    test, right = clusters(50, 3, seed=1)
    splits = {"train": split_of(train, label=labels.tolist()), "test": split_of(test, label=right.tolist())}
    score = score_linear_probe(dataset_of(splits["test"], classes=["a", "b", "c"]), splits)
    probe = oneclip.LinearProbe(encoder).fit(train, labels)
    assert score.headline == "lp_acc1"
    assert score.metrics["lp_acc1"] == np.mean(np.array(probe.predict(test)) == right)
    assert math.isnan(score.metrics["lp_acc5"])
    assert score.details["regularization"]["C"] == probe.C
    assert json.dumps(score.details)


def test_the_split_val_chooses_the_regularization_of_an_evaluation() -> None:
    train, labels = clusters(60, 3)
    split = split_of(train, label=labels.tolist())
    splits = {"train": split, "val": split_of(train[:20], label=labels[:20].tolist()), "test": split}
    details = score_linear_probe(dataset_of(split, classes=["a", "b", "c"]), splits).details
    assert (details["regularization"]["images"], details["train_images"]) == (20, 80)


def test_compat_keeps_the_random_state_of_the_caller() -> None:
    rows, labels = clusters(20, 3)
    split = split_of(rows, label=labels.tolist())
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    schedule = CompatSchedule(epochs=1)
    score = score_linear_probe(
        dataset_of(split, classes=["a", "b", "c"]), {"train": split, "test": split}, compat=schedule
    )
    assert torch.equal(torch.rand(3), expected)
    assert set(score.metrics) == {"lp_acc1", "lp_acc5", "lp_mean_per_class_recall"}


def test_compat_needs_as_many_images_as_shots() -> None:
    rows, labels = clusters(20, 3)
    split = split_of(rows, label=labels.tolist())
    with pytest.raises(DataError, match="expected at least 16 shots"):
        score_linear_probe(
            dataset_of(split, classes=["a", "b", "c"]),
            {"train": split, "test": split},
            compat=CompatSchedule(shots=16),
        )
