"""Winoground and SugarCrepe, in the layouts in which they are published.

Winoground: `examples.jsonl` with two images and two captions in each line, and their images in `images/`.
SugarCrepe: `KIND.json` (add_att, swap_obj, …) with a right and a wrong caption of each image, and COCO's `val2017/`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from oneclip.embed.items import Failure
from oneclip.embed.sources.files import file_item
from oneclip.errors import DataError
from oneclip.evaluate.data.dataset import EvaluationDataset, LazySplit, Sample
from oneclip.evaluate.data.text_files import parse_json, read_text

SUGAR_CREPE_KINDS = (
    *("add_att", "add_obj"),
    *("replace_att", "replace_obj", "replace_rel"),
    *("swap_att", "swap_obj"),
)
EXAMPLES, WINOGROUND_GROUP = "examples.jsonl", "collapsed_tag"


def find_winoground(folder: Path) -> Path | None:
    """Return the path of Winoground's examples in a folder, or None."""
    return next((path for path in (folder / EXAMPLES, folder / "data" / EXAMPLES) if path.is_file()), None)


def find_sugar_crepe(folder: Path) -> list[Path]:
    """Return the paths of SugarCrepe's files in a folder."""
    paths = (folder / f"{kind}.json" for kind in SUGAR_CREPE_KINDS)
    return [path for path in paths if path.is_file()]


def open_winoground(
    examples: Path, images: str | os.PathLike[str] | None = None, group_column: str | None = None
) -> EvaluationDataset:
    """Open Winoground.

    Args:
        examples: path of `examples.jsonl`.
        images: folder of the images; by default `images` beside it.
        group_column: field that divides the examples into groups; by default "collapsed_tag", if it is there.

    Raises:
        DataError: if the folder of images is missing, or on iterating, a line lacks a field.
    """
    folder = _image_folder(examples.parent, images, "images")
    samples = LazySplit(str(examples), partial(_winoground, examples, folder, group_column))
    return EvaluationDataset("winoground", "caption_selection", {"test": samples}, source=str(examples))


def open_sugar_crepe(paths: list[Path], images: str | os.PathLike[str] | None = None) -> EvaluationDataset:
    """Open one or several files of SugarCrepe; the group of an image is the kind of its file.

    Args:
        paths: of the files.
        images: folder of the images; by default `val2017` beside them.

    Raises:
        DataError: if the folder of images is missing, or on iterating, an entry lacks a field.
    """
    folder = _image_folder(paths[0].parent, images, "val2017")
    name = "sugar_crepe" + (f"/{paths[0].stem}" if len(paths) == 1 else "")
    samples = LazySplit(name, partial(_sugar_crepe, paths, folder))
    source = str(paths[0] if len(paths) == 1 else paths[0].parent)
    return EvaluationDataset(name, "caption_selection", {"test": samples}, source=source)


def _image_folder(beside: Path, images: str | os.PathLike[str] | None, usual: str) -> Path:
    folder = Path(images) if images is not None else beside / usual
    if not folder.is_dir():
        raise DataError(
            f"{folder} is not a folder; expected the images of the data set there (images=…, --images)"
        )
    return folder


def _winoground(examples: Path, folder: Path, group_column: str | None) -> Iterator[Sample | Failure]:
    files = {path.stem: path.name for path in folder.iterdir()}  # names in the examples have no suffix
    lines = [line for line in read_text(examples).splitlines() if line.strip()]
    for number, line in enumerate(lines):
        where = f"line {number + 1} of {examples}"
        entry = parse_json(line, where)
        group = (
            entry.get(WINOGROUND_GROUP, "") if group_column is None else _field(entry, group_column, where)
        )
        texts = _field(entry, "caption_0", where), _field(entry, "caption_1", where)
        for side in ("image_0", "image_1"):
            name = _field(entry, side, where)
            item = file_item(str(folder / files.get(name, name)))
            yield Sample(item, texts=texts, group=str(group), instance=number)


def _sugar_crepe(paths: list[Path], folder: Path) -> Iterator[Sample | Failure]:
    instance = 0
    for path in paths:
        content = parse_json(read_text(path), str(path))
        for key, entry in content.items() if isinstance(content, dict) else enumerate(content):
            where = f"entry {key} of {path}"
            texts = _field(entry, "caption", where), _field(entry, "negative_caption", where)
            item = file_item(str(folder / _field(entry, "filename", where)))
            yield Sample(item, texts=texts, group=path.stem, instance=instance)
            instance += 1


def _field(entry: Any, name: str, where: str) -> str:
    value = entry.get(name) if isinstance(entry, dict) else None
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where} has no {name!r}; expected a text")
    return value
