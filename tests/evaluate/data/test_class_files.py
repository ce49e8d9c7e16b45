"""Class names and prompts from files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small_datasets import make_classes

from oneclip.errors import ConfigError, DataError
from oneclip.evaluate import TEMPLATES
from oneclip.evaluate.data import open_dataset


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Folder of the classes "blue", "green" and "red"."""
    return make_classes(tmp_path / "colours", per_class=1)


def write(path: Path, content: Any) -> Path:
    """Write a file: text as it is, anything else as JSON."""
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("names.txt", "sky\ngrass\nrose\n\n"),
        ("names.json", ["sky", "grass", "rose"]),
        ("names.json", {"red": "rose", "blue": "sky", "green": "grass"}),
        ("names.json", {"colours": ["sky", "grass", "rose"], "other": ["a"]}),
        ("names.json", {"wds/colours": ["a"], "colours": ["sky", "grass", "rose"]}),
    ],
)
def test_class_names_come_from_a_file(tmp_path: Path, classes: Path, name: str, content: Any) -> None:
    file = write(tmp_path / name, content)
    assert open_dataset(classes, classes=file).classes == ["sky", "grass", "rose"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("names.txt", "sky\n\nrose\n", "class 2 in .*names.txt is ''; expected a name"),
        ("names.txt", "sky\ngrass\n", "2 class names were given, but colours has 3 classes"),
        ("names.json", {"pink": "rose"}, "'pink', which is not a class of colours: 'blue', 'green', 'red'"),
        ("names.json", {"other": ["a"]}, "names.json has no class names for colours"),
        ("names.json", "[", "names.json is not valid JSON"),
    ],
)
def test_a_file_of_classes_that_does_not_fit_is_an_error(
    tmp_path: Path, classes: Path, name: str, content: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        open_dataset(classes, classes=write(tmp_path / name, content))


def test_a_missing_file_of_classes_is_an_error(classes: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"classes is 'names\.txt'; expected 'imagenet', or a text or JSON file"
    ):
        open_dataset(classes, classes="names.txt")


@pytest.mark.parametrize(
    ("name", "content", "templates"),
    [
        ("t.txt", "a {c}.\n\nthe {}\n", ["a {}.", "the {}"]),
        ("t.json", ["a {c}."], ["a {}."]),
        ("t.json", {"colours": ["a {c}."], "imagenet1k": ["the {c}"]}, ["a {}."]),
        ("t.json", {"mnist": ["no {c}"], "imagenet1k": ["the {c}"]}, ["the {}"]),
        ("t.json", {"red": ["a rose"], "blue": ["the sky"]}, {"red": ["a rose"], "blue": ["the sky"]}),
        ("t.json", {"colours": {"red": ["a rose"]}}, {"red": ["a rose"]}),
    ],
)
def test_prompts_come_from_a_file(
    tmp_path: Path, classes: Path, name: str, content: Any, templates: Any
) -> None:
    file = write(tmp_path / name, content)
    assert open_dataset(classes, templates=file).templates == templates


def test_prompts_may_be_named_or_given(classes: Path) -> None:
    assert open_dataset(classes).templates is None
    assert open_dataset(classes, templates="imagenet").templates == TEMPLATES
    assert open_dataset(classes, templates="a {}").templates == ["a {}"]
    assert open_dataset(classes, templates=["the {}"]).templates == ["the {}"]


@pytest.mark.parametrize("content", [["a photo"], {"colours": "a {}"}, {"mnist": ["no {c}"]}, {}])
def test_a_file_of_prompts_that_does_not_fit_is_an_error(tmp_path: Path, classes: Path, content: Any) -> None:
    with pytest.raises(DataError, match=r"t\.json has "):
        open_dataset(classes, templates=write(tmp_path / "t.json", content))
