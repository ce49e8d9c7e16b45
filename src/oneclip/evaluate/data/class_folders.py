"""Folders of classes: DIR/CLASS/IMAGE, or DIR/SPLIT/CLASS/IMAGE."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache, partial
from pathlib import Path

from oneclip.embed.items import Failure
from oneclip.embed.sources.files import file_item
from oneclip.errors import DataError
from oneclip.evaluate.data.dataset import (
    USUAL_SPLITS,
    EvaluationDataset,
    LazySplit,
    Sample,
    arrange_splits,
)
from oneclip.evaluate.image_folder import class_folders, class_name, images_of_class
from oneclip.evaluate.imagenet import class_names
from oneclip.hub.file_types import UnsupportedFiles

SPLITS = ("train", "trainval", "val", "test", *USUAL_SPLITS)
_SYNSET = re.compile(r"n\d{8}")


def open_class_folders(folder: Path, split: str | None = None) -> EvaluationDataset:
    """Open a folder of classes.

    Class names are those of the folders, with spaces for underscores. If the folders are called by ImageNet's ids
    (n01440764, …), the classes have ImageNet's names. Classes are sorted by the names of their folders, or by number
    if all of these are numbers.

    Args:
        folder: with one folder for each class, or with folders `train`, `val` and `test` of classes.
        split: to evaluate; by default "test", or without it "val".

    Raises:
        DataError: if there are fewer than two classes, the split is missing, or on iterating, a class has no images.
    """
    places = _split_folders(folder) or {"": folder}
    names = sorted({path.name for place in places.values() for path in class_folders(place)})
    if all(name.isdecimal() for name in names):
        names.sort(key=int)
    if len(names) < 2:
        raise DataError(
            f"{folder} has {len(names)} folder{'s' * (len(names) != 1)}; expected one folder of images for each of two "
            "or more classes, or a table of images and captions"
        )
    dataset = EvaluationDataset(
        name=folder.resolve().name,
        kind="classes",
        splits={},
        classes=_display_names(names),
        source=str(folder),
    )
    counts: dict[str, UnsupportedFiles] = {}
    found = {
        name: LazySplit(str(place), partial(_samples, place, names, counts, dataset.not_read))
        for name, place in places.items()
    }
    dataset.splits = arrange_splits(found, split, str(folder))
    return dataset


def _split_folders(folder: Path) -> dict[str, Path]:
    """Return the folders of splits by name; empty if the folders inside are classes.

    One class may be called "train". Two such folders, each with folders inside, are splits, whatever is beside them.
    """
    inside = class_folders(folder)
    splits = {
        path.name.lower(): path for path in inside if path.name.lower() in SPLITS and class_folders(path)
    }
    return splits if len(splits) > 1 or len(splits) == len(inside) else {}


def _samples(
    folder: Path, names: Sequence[str], counts: dict[str, UnsupportedFiles], not_read: UnsupportedFiles
) -> Iterator[Sample | Failure]:
    """List all classes, then yield their images; `not_read` is counted anew, so that iterating twice is harmless."""
    label_of = {name: label for label, name in enumerate(names)}
    counts[str(folder)] = UnsupportedFiles()
    found = [(path.name, images_of_class(path, counts[str(folder)])) for path in class_folders(folder)]
    not_read.clear()
    for count in counts.values():
        not_read.update(count)
    for name, images in sorted(found, key=lambda each: label_of[each[0]]):
        for image in images:
            yield Sample(file_item(image), label=label_of[name])


def _display_names(folders: Sequence[str]) -> list[str]:
    """Return the class names for folders; ImageNet's ids become names."""
    synsets = imagenet_synsets()
    if all(_SYNSET.fullmatch(name) and name in synsets for name in folders):
        return [class_names()[synsets[name]] for name in folders]
    return [class_name(name) for name in folders]


@cache
def imagenet_synsets() -> dict[str, int]:
    """Return the index of each of ImageNet's 1,000 classes by its WordNet id."""
    path = Path(__file__).with_name("imagenet_synsets.txt")
    return {line: index for index, line in enumerate(path.read_text(encoding="ascii").split())}
