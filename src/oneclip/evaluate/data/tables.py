"""Tables of images with captions, or with classes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from oneclip.embed.items import Failure, Item
from oneclip.embed.sources.files import file_item
from oneclip.errors import DataError
from oneclip.evaluate.data.dataset import EvaluationDataset, Kind, LazySplit, Sample, arrange_splits
from oneclip.hub.addresses import is_address, with_slashes
from oneclip.hub.pairs import CaptionPairs, read_pairs, with_existing_images
from oneclip.hub.tables import TableReader

LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "category")
SPLIT_COLUMN = "split"
SEVERAL = "|"  # between the classes of a multilabel image


@dataclass(frozen=True)
class TableColumns:
    """Columns of a table, and how its rows are read.

    Attributes:
        image, caption: names of the columns.
        label: of classes; None for one of `LABEL_COLUMNS` in a table without captions.
        group: of groups; None for none.
        separator: of a CSV file; None to detect it.
    """

    image: str = "filepath"
    caption: str = "caption"
    label: str | None = None
    group: str | None = None
    separator: str | None = None


def open_table(
    path: Path,
    columns: TableColumns,
    *,
    images: str | os.PathLike[str] | None = None,
    split: str | None = None,
    classes: Sequence[str] = (),
    skip_missing: bool = False,
) -> EvaluationDataset:
    """Open a table of images with captions or with classes.

    Rows with the same path are one image. A table of classes may have the columns `split`, and `labels` with several
    classes of one image, separated by `|`.

    Args:
        path: of a CSV or Parquet file.
        columns: which columns to read.
        images: folder that paths are relative to; None for the table's folder.
        split: to evaluate, of a table of classes with a column `split`.
        classes: names in the order of numbers in the label column; empty for the labels themselves, sorted.
        skip_missing: yield failures for images that do not exist, instead of raising.

    Raises:
        DataError: if the table cannot be read, lacks a column, or images are missing.
        MissingExtraError: for Parquet without pyarrow.
    """
    folder = Path(images) if images is not None else path.parent
    label = columns.label or _label_column(path, columns)
    if label is None:
        return _open_captions(path, columns, folder, skip_missing)
    rows = _read_rows(path, replace(columns, label=label))
    missing: dict[str, str] = {}
    names = [row.image for row in rows]
    with_existing_images(
        CaptionPairs(str(path), names, names), folder, missing if skip_missing else None, is_address
    )
    kind: Kind = "multilabel" if label == "labels" else "classes"
    numbers = label_numbers(
        (label for row in rows for label in row.labels), classes, f"{path}, column {label!r}"
    )
    dataset = EvaluationDataset(path.stem, kind, {}, list(classes or numbers), source=str(path))
    by_split: dict[str, list[_Row]] = {}
    for row in rows:
        by_split.setdefault(row.split, []).append(row)
    found = {
        name: LazySplit(
            f"{path}, split {name!r}", partial(_class_samples, some, numbers, kind, folder, missing)
        )
        for name, some in by_split.items()
    }
    dataset.splits = arrange_splits(found, split, str(path))
    return dataset


@dataclass(frozen=True)
class _Row:
    image: str
    labels: tuple[str, ...]
    group: str
    split: str


def _label_column(path: Path, columns: TableColumns) -> str | None:
    """Return the label column of a table without captions; None for a table of captions, or an unusual one."""
    try:
        names = TableReader(
            str(path), separator=columns.separator, wanted=(columns.image, *LABEL_COLUMNS)
        ).names
    except DataError:
        return None  # `read_pairs` explains it
    if columns.caption in names:
        return None
    return next((name for name in LABEL_COLUMNS if name in names), None)


def _open_captions(path: Path, columns: TableColumns, folder: Path, skip_missing: bool) -> EvaluationDataset:
    pairs = read_pairs(
        path, image_column=columns.image, caption_column=columns.caption, separator=columns.separator
    )
    missing: dict[str, str] = {}
    existing = with_existing_images(pairs, folder, missing if skip_missing else None, is_address)
    texts: dict[str, dict[str, None]] = {}  # of each image, in order and without repetitions
    for image, caption in zip(existing.images, existing.captions, strict=True):
        texts.setdefault(image, {})[caption] = None

    def samples() -> Iterator[Sample | Failure]:
        yield from (Failure(name, why) for name, why in missing.items())
        for image, captions in texts.items():
            yield Sample(listed_image(image, folder), texts=tuple(captions))

    return EvaluationDataset(path.stem, "captions", {"test": LazySplit(str(path), samples)}, source=str(path))


def _read_rows(path: Path, columns: TableColumns) -> list[_Row]:
    """Read the rows of a table of classes.

    Raises:
        DataError: naming the first row without image or class.
    """
    assert columns.label is not None
    wanted = [columns.image, columns.label, *([columns.group] if columns.group else [])]
    table = TableReader(str(path), separator=columns.separator, wanted=wanted)
    for column in wanted:
        table.check_column(column)
    has_splits = SPLIT_COLUMN in table.names
    rows = []
    for row in table.rows([*wanted, *([SPLIT_COLUMN] if has_splits else [])]):
        if row.problem is not None:
            raise DataError(row.problem)
        values = ["" if value is None else str(value).strip() for value in row.values]
        image, label = values[:2]
        if not image or not label:
            empty = columns.label if image else columns.image
            raise DataError(f"row {row.number} of {path} has nothing in the column {empty!r}")
        labels = (
            tuple(name.strip() for name in label.split(SEVERAL)) if columns.label == "labels" else (label,)
        )
        rows.append(_Row(image, labels, values[2] if columns.group else "", values[-1] if has_splits else ""))
    if not rows:
        raise DataError(f"{path} has no rows; expected at least one with {wanted[0]!r} and {wanted[1]!r}")
    return list(dict.fromkeys(rows))


def label_numbers(labels: Iterable[str], classes: Sequence[str], where: str) -> dict[str, int]:
    """Return the number of each label.

    Args:
        labels: as written in a table.
        classes: names in the order of their numbers; empty for the sorted labels.
        where: for the message.

    Raises:
        DataError: for a label that is neither one of the given classes nor the number of one.
    """
    labels = sorted(set(labels))
    if not classes:
        return {label: number for number, label in enumerate(labels)}
    known = {name: number for number, name in enumerate(classes)}
    unknown = [label for label in labels if label not in known]
    if unknown and all(label.isdecimal() and int(label) < len(classes) for label in labels):
        return {label: int(label) for label in labels}
    if unknown:
        raise DataError(
            f"{where} has {unknown[0]!r}, which is not one of the {len(classes)} class names: "
            f"{', '.join(map(repr, classes[:5]))}…"
        )
    return known


def _class_samples(
    rows: Sequence[_Row], numbers: Mapping[str, int], kind: Kind, folder: Path, missing: Mapping[str, str]
) -> Iterator[Sample | Failure]:
    for row in rows:
        if row.image in missing:
            yield Failure(row.image, missing[row.image])
            continue
        labels = tuple(numbers[label] for label in row.labels)
        item = listed_image(row.image, folder)
        if kind == "classes":
            yield Sample(item, labels[0], group=row.group)
        else:
            yield Sample(item, labels=labels, group=row.group)


def listed_image(name: str, folder: Path) -> Item:
    """Return the item of a path, relative to a folder, or of an address; it keeps the name in the table."""
    if is_address(name):
        return file_item(name)
    return replace(file_item(with_slashes(os.path.join(folder, name))), name=name, key="")
