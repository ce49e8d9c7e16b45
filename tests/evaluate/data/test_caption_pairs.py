"""Winoground and SugarCrepe as they are published."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_datasets import image_bytes, make_sugar_crepe, make_winoground

from oneclip.errors import DataError
from oneclip.evaluate.data import Sample, open_dataset


def samples(source: Path, **options: str) -> list[Sample]:
    """Return the samples of the test split."""
    return [each for each in open_dataset(source, **options).split("test") if isinstance(each, Sample)]  # type: ignore[arg-type]


def test_winoground_has_two_images_and_two_captions_in_each_instance(tmp_path: Path) -> None:
    make_winoground(tmp_path, count=2)
    dataset = open_dataset(tmp_path)
    assert (dataset.name, dataset.kind) == ("winoground", "caption_selection")
    found = samples(tmp_path)
    assert [each.instance for each in found] == [0, 0, 1, 1]
    assert found[2].texts == found[3].texts == ("a green thing 1", "a blue thing 1")
    assert found[3].item.read() == image_bytes("blue", 3)


def test_winoground_may_be_grouped_by_a_field(tmp_path: Path) -> None:
    found = samples(make_winoground(tmp_path, count=2), group_column="tag")
    assert [each.group for each in found] == ["Relation"] * 2 + ["Object"] * 2


def test_winoground_as_parquet_is_the_same(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    make_winoground(tmp_path / "published", count=2)
    lines = (tmp_path / "published" / "examples.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    for row in rows:
        for side in ("image_0", "image_1"):
            path = tmp_path / "published" / "images" / f"{row[side]}.png"
            row[side] = {"bytes": path.read_bytes(), "path": None}
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "test.parquet")
    found, published = samples(tmp_path / "test.parquet"), samples(tmp_path / "published")
    assert [(each.texts, each.instance, each.item.read()) for each in found] == [
        (each.texts, each.instance, each.item.read()) for each in published
    ]


def test_sugar_crepe_has_the_right_caption_first(tmp_path: Path) -> None:
    make_sugar_crepe(tmp_path, count=2)
    found = samples(tmp_path / "add_att.json")
    assert open_dataset(tmp_path / "add_att.json").name == "sugar_crepe/add_att"
    assert [each.texts for each in found] == [
        ("a red thing", "a green thing"),
        ("a green thing", "a blue thing"),
    ]
    assert [each.instance for each in found] == [0, 1]


def test_a_folder_of_sugar_crepe_has_all_kinds_as_groups(tmp_path: Path) -> None:
    found = samples(make_sugar_crepe(tmp_path, count=2))
    assert [(each.group, each.instance) for each in found] == [
        *[("add_att", 0), ("add_att", 1)],
        *[("swap_obj", 2), ("swap_obj", 3)],
    ]


def test_a_missing_folder_of_images_is_an_error(tmp_path: Path) -> None:
    (make_sugar_crepe(tmp_path) / "val2017").rename(tmp_path / "coco")
    with pytest.raises(DataError, match="val2017 is not a folder; expected the images of the data set there"):
        open_dataset(tmp_path)
    assert len(samples(tmp_path, images=str(tmp_path / "coco"))) == 12


def test_an_example_without_a_caption_is_an_error(tmp_path: Path) -> None:
    make_winoground(tmp_path, count=1)
    (tmp_path / "examples.jsonl").write_text('{"image_0": "a", "image_1": "b", "caption_0": "c"}\n')
    with pytest.raises(DataError, match=r"line 1 of .*examples.jsonl has no 'caption_1'; expected a text"):
        samples(tmp_path)
