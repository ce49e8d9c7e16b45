"""Hugging Face datasets on disk as data sets of an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_datasets import image_bytes, make_hf_dataset

from oneclip.embed.items import Failure
from oneclip.errors import DataError, ImageError
from oneclip.evaluate.data import Sample, open_dataset

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
COLOURS = ("red", "green", "blue")


def samples(source: str | Path, split: str = "test", **options: Any) -> list[Sample]:
    """Return the samples of a split without failures."""
    found = list(open_dataset(source, **options).split(split))
    assert not any(isinstance(each, Failure) for each in found)
    return found  # type: ignore[return-value]


@pytest.mark.parametrize("form", ["save_to_disk", "parquet"])
def test_classes_are_those_of_the_class_label(tmp_path: Path, form: str) -> None:
    make_hf_dataset(tmp_path / "d", form=form, splits={"train": 1, "test": 2})
    dataset = open_dataset(tmp_path / "d")
    assert (dataset.name, dataset.kind, dataset.classes) == ("d", "classes", ["red", "green", "blue"])
    assert len(samples(tmp_path / "d", "train")) == 3
    found = samples(tmp_path / "d")
    assert [each.label for each in found] == [0, 1, 2, 0, 1, 2]
    assert [each.item.read() for each in found] == [image_bytes(COLOURS[n % 3], n + 3) for n in range(6)]


def test_validation_is_evaluated_if_there_is_no_test(tmp_path: Path) -> None:
    make_hf_dataset(tmp_path, splits={"train": 2, "validation": 1})
    assert len(samples(tmp_path)) == 3
    assert list(open_dataset(tmp_path).splits) == ["train", "test"]


def test_captions_may_be_lists(tmp_path: Path) -> None:
    images = [{"bytes": image_bytes("red", n), "path": None} for n in range(2)]
    path = tmp_path / "captions.parquet"
    parquet.write_table(pyarrow.table({"image": images, "caption": [["one", "two"], ["three"]]}), path)
    assert open_dataset(path).kind == "captions"
    assert [each.texts for each in samples(path)] == [("one", "two"), ("three",)]


def test_a_list_of_labels_is_a_multilabel_dataset(tmp_path: Path) -> None:
    images = [{"bytes": image_bytes("red", n), "path": None} for n in range(2)]
    path = tmp_path / "labels.parquet"
    parquet.write_table(pyarrow.table({"image": images, "labels": [["b", "a"], ["c"]]}), path)
    assert open_dataset(path).kind == "multilabel"
    assert [each.labels for each in samples(path)] == [(1, 0), (2,)]


def test_images_may_be_paths_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(image_bytes("red"))
    images = pyarrow.array(
        [{"bytes": None, "path": "0.png"}, {"bytes": None, "path": None}],
        pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())]),
    )
    path = tmp_path / "paths.parquet"
    parquet.write_table(pyarrow.table({"image": images, "label": ["a", "b"]}), path)
    first, second = samples(path)
    assert first.item.read() == image_bytes("red")
    with pytest.raises(ImageError, match=r"paths.parquet:2 has no image in the column 'image'"):
        second.item.read()


def test_a_column_divides_the_rows_into_groups(tmp_path: Path) -> None:
    make_hf_dataset(tmp_path, splits={"test": 1}, columns={"camera": ["old", "new", "old"]})
    assert [each.group for each in samples(tmp_path, group_column="camera")] == ["old", "new", "old"]


def test_numbers_without_names_need_a_file_of_classes(tmp_path: Path) -> None:
    path = tmp_path / "numbers.parquet"
    images = [{"bytes": image_bytes("red", n), "path": None} for n in range(2)]
    parquet.write_table(pyarrow.table({"image": images, "label": [1, 0]}), path)
    with pytest.raises(DataError, match="has no class names: its column 'label' has only numbers"):
        open_dataset(path)
    assert [each.label for each in samples(path, classes=["cat", "dog"])] == [1, 0]


def test_a_split_without_labels_is_an_error(tmp_path: Path) -> None:
    make_hf_dataset(tmp_path, form="parquet", splits={"train": 1})
    path = next(tmp_path.rglob("*.parquet"))
    table = parquet.read_table(path)
    hidden = table.set_column(1, "label", pyarrow.array([-1, -1, -1]))
    parquet.write_table(hidden, path.with_name("test-00000-of-00001.parquet"))
    with pytest.raises(DataError, match="has the label -1; expected one of 3 classes"):
        samples(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_column": "lable"}, "no column 'lable' for the classes of .*; did you mean 'label'"),
        ({"group_column": "camera"}, "no column 'camera' for the groups of"),
        ({"split": "dev"}, "has no split 'dev'; available: train, test"),
    ],
)
def test_missing_columns_and_splits_are_errors(tmp_path: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_dataset(make_hf_dataset(tmp_path), **options)  # type: ignore[arg-type]


def test_many_threads_read_the_images_of_one_row_group(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    found = samples(make_hf_dataset(tmp_path, form="parquet", splits={"test": 8}))
    with ThreadPoolExecutor(8) as pool:
        images = list(pool.map(lambda each: each.item.read(), found))
    assert images == [image_bytes(COLOURS[n % 3], n) for n in range(24)]
