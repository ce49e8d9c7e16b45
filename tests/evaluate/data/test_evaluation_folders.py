"""Folders of classes as data sets of an evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_datasets import image_bytes, make_classes

from oneclip.embed.items import Failure
from oneclip.errors import DataError
from oneclip.evaluate.data import EvaluationDataset, Sample, open_dataset
from oneclip.evaluate.imagenet import class_names


def samples(dataset: EvaluationDataset, split: str = "test") -> list[Sample]:
    """Return the samples of a split, none of which may be a failure."""
    found = [each for each in dataset.split(split) if not isinstance(each, Failure)]
    assert len(found) == len(list(dataset.split(split)))
    return found


def test_a_folder_of_classes_has_the_names_of_its_folders(tmp_path: Path) -> None:
    make_classes(tmp_path / "c", classes=("red", "green"), per_class=2)
    (tmp_path / "c" / "green").rename(tmp_path / "c" / "light_green")
    dataset = open_dataset(tmp_path / "c")
    assert (dataset.name, dataset.kind, dataset.classes) == ("c", "classes", ["light green", "red"])
    assert [(Path(each.item.name).parent.name, each.label) for each in samples(dataset)] == [
        *[("light_green", 0)] * 2,
        *[("red", 1)] * 2,
    ]


def test_folders_of_splits_share_their_classes(tmp_path: Path) -> None:
    make_classes(tmp_path, splits={"train": 3, "val": 2, "test": 1})
    (tmp_path / "test" / "blue" / "00.png").unlink()
    (tmp_path / "test" / "blue").rmdir()
    dataset = open_dataset(tmp_path)
    counts = {name: len(samples(dataset, name)) for name in dataset.splits}
    assert counts == {"train": 9, "val": 6, "test": 2}
    assert [each.label for each in samples(dataset)] == [1, 2]  # blue, green, red


@pytest.mark.parametrize(
    ("there", "wanted", "evaluated", "others"),
    [
        ({"train": 3, "val": 2}, None, 2, ["train"]),
        ({"train": 3, "validation": 2, "test": 1}, "val", 2, ["train"]),
        ({"train": 3, "test": 1}, "train", 3, []),
        ({"train": 3}, None, 3, []),
    ],
)
def test_the_split_to_evaluate_is_called_test(
    tmp_path: Path, there: dict[str, int], wanted: str | None, evaluated: int, others: list[str]
) -> None:
    dataset = open_dataset(make_classes(tmp_path, splits=there), split=wanted)
    assert len(samples(dataset)) == 3 * evaluated
    assert [name for name in dataset.splits if name != "test"] == others


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    make_classes(tmp_path, classes=("red", "green"))
    (tmp_path / "red").rename(tmp_path / "train")
    assert open_dataset(tmp_path).classes == ["green", "train"]


def test_folders_beside_those_of_splits_are_not_classes(tmp_path: Path) -> None:
    make_classes(tmp_path, splits={"train": 1, "test": 1})
    (tmp_path / "annotations").mkdir()
    assert open_dataset(tmp_path).classes == ["blue", "green", "red"]


def test_folders_named_by_imagenets_ids_have_its_class_names(tmp_path: Path) -> None:
    for name in ("n02123045", "n01443537"):
        make_classes(tmp_path / "x", classes=("red",), per_class=1)
        (tmp_path / "x" / "red").rename(tmp_path / name)
    (tmp_path / "x").rmdir()
    assert open_dataset(tmp_path).classes == ["goldfish", "tabby cat"]


def test_folders_named_by_numbers_are_in_the_order_of_the_numbers(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "0.png").write_bytes(image_bytes("red", number))
    dataset = open_dataset(tmp_path, classes=class_names()[:12])
    assert [Path(each.item.name).parent.name for each in samples(dataset)] == [str(n) for n in range(12)]
    assert dataset.classes[2] == "great white shark"


def test_files_in_other_formats_are_counted_once(tmp_path: Path) -> None:
    make_classes(tmp_path, splits={"train": 1, "test": 1})
    (tmp_path / "test" / "red" / "clip.mov").write_bytes(b"")
    dataset = open_dataset(tmp_path)
    for _ in range(2):
        samples(dataset)
        samples(dataset, "train")
    assert dataset.not_read == {".mov": 1}


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("red",), "has 1 folder; expected one folder of images for each of two or more classes"),
        ((), "has no data set; expected a folder of classes"),
    ],
)
def test_fewer_than_two_classes_are_an_error(tmp_path: Path, classes: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_dataset(make_classes(tmp_path, classes=classes))


def test_a_class_without_images_is_an_error(tmp_path: Path) -> None:
    make_classes(tmp_path)
    (tmp_path / "yellow").mkdir()
    with pytest.raises(DataError, match="yellow has no images"):
        list(open_dataset(tmp_path).split("test"))


def test_a_missing_split_is_an_error(tmp_path: Path) -> None:
    make_classes(tmp_path, splits={"train": 1, "test": 1})
    with pytest.raises(DataError, match="has no split 'dev'; available: test, train"):
        open_dataset(tmp_path, split="dev")
    with pytest.raises(DataError, match=r"has no split 'val'; it has train, test"):
        open_dataset(tmp_path).split("val")


def test_groups_of_a_folder_of_classes_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no column 'camera'; use a table"):
        open_dataset(make_classes(tmp_path), group_column="camera")


def test_what_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist; expected a folder of classes, a table"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no data set was named; expected a folder of classes"):
        open_dataset("")
