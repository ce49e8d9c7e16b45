"""Tables as data sets of an evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_datasets import make_table

from oneclip.embed.items import Failure
from oneclip.errors import DataError
from oneclip.evaluate.data import Sample, open_dataset


def samples(path: Path, **options: object) -> list[Sample]:
    """Return the samples of the test split of a table without failures."""
    found = list(open_dataset(path, **options).split("test"))  # type: ignore[arg-type]
    assert not any(isinstance(each, Failure) for each in found)
    return found  # type: ignore[return-value]


def test_rows_with_the_same_image_are_one_image_with_several_captions(tmp_path: Path) -> None:
    table = make_table(tmp_path, count=3, captions=2)
    assert open_dataset(table).kind == "captions"
    assert [(each.item.name, each.texts) for each in samples(table)] == [
        (f"images/{n:02}.png", (f"{colour} drawing {n}, text 0", f"{colour} drawing {n}, text 1"))
        for n, colour in enumerate(("red", "green", "blue"))
    ]
    assert samples(table)[1].item.read() == (tmp_path / "images" / "01.png").read_bytes()


def test_a_table_without_captions_has_the_classes_of_its_label_column(tmp_path: Path) -> None:
    table = make_table(tmp_path, count=3, captions=1, columns={"label": ["cat", "dog", "cat"]})
    table.write_text(table.read_text().replace("caption,", "note,"))
    dataset = open_dataset(table)
    assert (dataset.kind, dataset.classes) == ("classes", ["cat", "dog"])
    assert [each.label for each in samples(table)] == [0, 1, 0]


def test_a_named_label_column_is_used_beside_captions(tmp_path: Path) -> None:
    table = make_table(tmp_path, count=2, columns={"animal": ["dog", "cat"]})
    assert [each.label for each in samples(table, label_column="animal")] == [1, 0]


def test_numbers_in_the_label_column_are_those_of_the_given_classes(tmp_path: Path) -> None:
    table = make_table(tmp_path, count=2, columns={"label": ["2", "0"]})
    options = {"label_column": "label", "classes": ["cat", "dog", "cow"]}
    assert [each.label for each in samples(table, **options)] == [2, 0]
    assert open_dataset(table, **options).classes == ["cat", "dog", "cow"]  # type: ignore[arg-type]


def test_a_column_of_labels_has_several_classes_of_one_image(tmp_path: Path) -> None:
    table = make_table(tmp_path, count=2, columns={"labels": ["cat|dog", "cow"]})
    assert open_dataset(table, label_column="labels").kind == "multilabel"
    assert [each.labels for each in samples(table, label_column="labels")] == [(0, 2), (1,)]


def test_a_column_divides_the_images_into_groups(tmp_path: Path) -> None:
    table = make_table(tmp_path, count=2, columns={"label": ["a", "b"], "camera": ["old", "new"]})
    groups = [each.group for each in samples(table, label_column="label", group_column="camera")]
    assert groups == ["old", "new"]


def test_a_table_of_classes_may_have_splits(tmp_path: Path) -> None:
    columns = {"label": ["a", "b", "a", "b"], "split": ["train", "train", "test", "test"]}
    dataset = open_dataset(make_table(tmp_path, count=4, captions=1, columns=columns), label_column="label")
    names = {
        split: [each.item.name for each in found if isinstance(each, Sample)]
        for split, found in dataset.splits.items()
    }
    assert names == {
        "train": ["images/00.png", "images/01.png"],
        "test": ["images/02.png", "images/03.png"],
    }


@pytest.mark.parametrize("options", [{}, {"label_column": "label"}])
def test_missing_images_are_an_error_or_skipped(tmp_path: Path, options: dict[str, str]) -> None:
    table = make_table(tmp_path, count=3, captions=1, columns={"label": ["a", "b", "a"]})
    (tmp_path / "images" / "01.png").unlink()
    with pytest.raises(DataError, match=r"1 of 3 images of .*captions.csv are not in .*: images/01.png"):
        open_dataset(table, **options)  # type: ignore[arg-type]
    found = list(open_dataset(table, skip_missing=True, **options).split("test"))  # type: ignore[arg-type]
    assert [each.name for each in found if isinstance(each, Failure)] == ["images/01.png"]
    assert len(found) == 3


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({}, {"caption_column": "text"}, "has no column 'text'; .*'filepath', 'caption'"),
        ({}, {"label_column": "label"}, "has no column 'label'"),
        ({"label": ["a", ""]}, {"label_column": "label"}, "row 2 of .* has nothing in the column 'label'"),
        ({"label": ["a", "a"]}, {"label_column": "label"}, "has one class, 'a'; expected at least two"),
        (
            {"label": ["a", "z"]},
            {"label_column": "label", "classes": ["a", "b"]},
            "'z', which is not one of the 2",
        ),
        (
            {"label": ["0", "2"]},
            {"label_column": "label", "classes": ["a", "b"]},
            "'0', which is not one of the 2",
        ),
    ],
)
def test_a_table_that_cannot_be_evaluated_is_one_clear_error(
    tmp_path: Path, columns: dict[str, list[str]], options: dict[str, object], message: str
) -> None:
    table = make_table(tmp_path, count=2, captions=1, columns=columns)
    with pytest.raises(DataError, match=message):
        open_dataset(table, **options)  # type: ignore[arg-type]
