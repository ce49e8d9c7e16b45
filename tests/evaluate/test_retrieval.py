"""Retrieval with several texts per image and several images per text."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from by_colour import ByColour, extractor, paint

from oneclip.errors import CheckpointError, ConfigError, DataError
from oneclip.evaluate import Retrieval, TaskSuite, open_task
from oneclip.losses import ClipLoss, SigLipLoss


def rows(folder: Path, *pairs: tuple[str, str]) -> Retrieval:
    for name, _ in pairs:
        paint(folder / f"{name}.png", name.rstrip("2"))
    table = folder / "pairs.csv"
    table.write_text("filepath,caption\n" + "".join(f"{name}.png,{text}\n" for name, text in pairs))
    return open_task(table)


def test_an_image_with_several_texts_counts_once(tmp_path: Path) -> None:
    task = rows(tmp_path, ("red", "red"), ("red", "more red"), ("blue", "blue"), ("green", "green"))
    assert len(task) == 3
    results = task(extractor())
    assert results["text_retrieval_recall@1"] == results["image_retrieval_recall@1"] == 1.0


def test_any_image_of_a_text_is_correct(tmp_path: Path) -> None:
    task = rows(tmp_path, ("red", "red"), ("red2", "red"), ("blue", "blue"))
    results = task(extractor())
    assert results["image_retrieval_recall@1"] == 1.0  # both red images tie, and both are correct
    assert results["mean_recall@1"] == 1.0


def test_the_loss_is_that_of_the_pairs_in_batches(tmp_path: Path) -> None:
    task = rows(tmp_path, ("red", "blue"), ("green", "green"), ("blue", "red"))
    image = extractor().encode_images(task.images)[0]
    text = extractor().encode_texts(["blue", "green", "red"])
    scale = torch.tensor(2.0).exp()
    parts = [2 * ClipLoss()(image[:2], text[:2], scale), ClipLoss()(image[2:], text[2:], scale)]
    assert task(extractor(batch_size=2))["loss"] == pytest.approx(float(sum(parts)) / 3)


def test_a_model_with_a_bias_has_the_sigmoid_loss(tmp_path: Path) -> None:
    task = rows(tmp_path, ("red", "red"), ("green", "green"))
    image, text = extractor().encode_images(task.images)[0], extractor().encode_texts(["red", "green"])
    loss = SigLipLoss()(image, text, torch.tensor(2.0).exp(), torch.tensor(-3.0))
    assert task(extractor(ByColour(bias=-3.0)))["loss"] == pytest.approx(float(loss))


def test_images_that_cannot_be_read_are_left_out_with_their_captions(tmp_path: Path) -> None:
    task = rows(tmp_path, ("red", "red"), ("green", "green"), ("blue", "blue"))
    (tmp_path / "red.png").write_bytes(b"not an image")
    assert task(extractor())["mean_recall@1"] == 1.0
    assert list(task.skipped) == ["red.png"]


def test_a_table_of_unreadable_images_is_an_error(tmp_path: Path) -> None:
    task = rows(tmp_path, ("red", "red"), ("green", "green"))
    for name in ("red", "green"):
        (tmp_path / f"{name}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"none of the 2 images of pairs\.csv"):
        task(extractor())


def test_missing_images_are_an_error_or_skipped(tmp_path: Path) -> None:
    rows(tmp_path, ("red", "red"), ("green", "green"))
    (tmp_path / "red.png").unlink()
    with pytest.raises(DataError, match=r"1 of 2 images .* red\.png"):
        open_task(tmp_path / "pairs.csv")
    task = open_task(tmp_path / "pairs.csv", skip_missing=True)
    task(extractor())
    assert list(task.skipped) == ["red.png"]


def test_nan_features_are_an_error(tmp_path: Path) -> None:
    model = ByColour()
    model.encode_image = lambda image: torch.full((len(image), 3), torch.nan)  # type: ignore[method-assign]
    with pytest.raises(CheckpointError, match="not finite"):
        rows(tmp_path, ("red", "red"))(extractor(model))


def test_a_suite_has_the_mean_of_its_tasks(tmp_path: Path) -> None:
    good = rows(tmp_path / "a", ("red", "red"), ("green", "green"))
    bad = rows(tmp_path / "b", ("red", "green"), ("green", "red"))
    good.name, bad.name = "good", "bad"
    results = TaskSuite("both", [good, bad])(extractor())
    assert results["mean"] == 0.5
    assert (results["good/mean_recall@1"], results["bad/mean_recall@1"]) == (1.0, 0.0)


def test_invalid_retrieval_data_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images"):
        Retrieval("empty", [], [])
    with pytest.raises(DataError, match="1 images and 2 texts"):
        Retrieval("uneven", ["a.png"], ["a", "b"])
    with pytest.raises(ConfigError, match="at least 1"):
        Retrieval("none", ["a.png"], ["a"], at=(0,))
    with pytest.raises(DataError, match="does not exist; expected a table"):
        open_task(tmp_path / "nothing")
