"""Zero-shot classification over a folder of classes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from by_colour import ByColour, extractor, paint

from oneclip.errors import DataError
from oneclip.evaluate import Classification, open_task


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Three classes: two red images, one green, and two blue, one of which is labelled green."""
    for place, colour in (
        ("red/1.png", "red"),
        ("red/deeper/2.PNG", "red"),
        ("light_green/1.png", "green"),
        ("light_green/2.png", "blue"),
        ("blue/1.png", "blue"),
    ):
        paint(tmp_path / "classes" / place, colour)
    (tmp_path / "classes" / "red" / "notes.txt").write_text("not an image")
    (tmp_path / "classes" / "red" / ".hidden.png").write_text("not an image")
    return tmp_path / "classes"


def test_class_names_are_folder_names(classes: Path) -> None:
    task = open_task(classes)
    assert isinstance(task, Classification)
    assert task.classes == ["blue", "light green", "red"]
    assert task.labels == [0, 1, 1, 2, 2]


def test_accuracy_is_over_images_and_its_mean_over_classes(classes: Path) -> None:
    task = Classification.from_folder(classes, templates=["a {} thing"])
    results = task(extractor())
    assert results == pytest.approx({"acc1": 4 / 5, "mean_per_class_recall": (1 + 1 / 2 + 1) / 3})
    assert task.per_class == {"blue": 1.0, "light green": 0.5, "red": 1.0}


def test_more_than_five_classes_have_a_top_5(tmp_path: Path) -> None:
    for name in ("red", "green", "blue", "a", "b", "c"):
        paint(tmp_path / name / "1.png", name if len(name) > 1 else "red")
    results = open_task(tmp_path)(extractor())
    assert results["acc1"] == 0.5
    assert 0.5 <= results["acc5"] <= 1.0


def test_constant_features_have_an_accuracy_of_zero(classes: Path) -> None:
    model = ByColour()
    model.encode_image = lambda image: torch.ones(len(image), 3)  # type: ignore[method-assign]
    model.encode_text = lambda text: torch.ones(len(text), 3)  # type: ignore[method-assign]
    assert open_task(classes)(extractor(model))["acc1"] == 0.0


def test_images_that_cannot_be_read_are_named(classes: Path) -> None:
    (classes / "blue" / "broken.png").write_bytes(b"")
    task = open_task(classes)
    task(extractor())
    assert list(task.skipped) == [str(classes / "blue" / "broken.png")]


def test_invalid_class_folders_are_errors(tmp_path: Path, classes: Path) -> None:
    with pytest.raises(DataError, match="has 0 folders"):
        open_task(classes / "red" / "deeper")
    (classes / "empty").mkdir()
    with pytest.raises(DataError, match=r"class .*empty has no images"):
        open_task(classes)
    paint(classes / "empty" / "1.png", "red")
    paint(classes / "light green" / "1.png", "green")
    with pytest.raises(DataError, match="with different names"):
        open_task(classes)
