"""Hugging Face datasets on disk: folders of `save_to_disk`, and Parquet files with images.

Needs pyarrow but not `datasets`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from oneclip.embed.items import Failure, Item
from oneclip.errors import DataError, ImageError
from oneclip.evaluate.data.caption_pairs import WINOGROUND_GROUP
from oneclip.evaluate.data.dataset import EvaluationDataset, Kind, LazySplit, Sample, arrange_splits
from oneclip.evaluate.data.tables import LABEL_COLUMNS, label_numbers
from oneclip.hub.addresses import is_address, read_bytes
from oneclip.hub.dataset_rows import (
    CAPTION_COLUMNS,
    IMAGE_COLUMNS,
    RowReader,
    choose_column,
    has_image_column,
    open_rows,
    split_names,
)

PAIR_COLUMNS = ("image_0", "image_1", "caption_0", "caption_1")  # of Winoground


def is_image_parquet(path: Path, image_column: str | None = None) -> bool:
    """Return whether a Parquet file contains images rather than their paths."""
    return has_image_column(path, image_column) or has_image_column(path, PAIR_COLUMNS[0])


def open_hf_dataset(
    place: Path,
    *,
    split: str | None = None,
    image_column: str | None = None,
    caption_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    classes: Sequence[str] = (),
) -> EvaluationDataset:
    """Open a dataset of images with classes, captions, or pairs as in Winoground.

    Args:
        place: a folder, or a Parquet file.
        split: to evaluate; by default "test", or without it "validation", or the only one.
        image_column: by default one with a usual name.
        caption_column: of captions, or lists of captions; by default one with a usual name, if there are no classes.
        label_column: of classes: the number of a ClassLabel, a name, or a list of several for a multilabel dataset.
        group_column: divides the images into groups.
        classes: names by the numbers in the label column, if the dataset has none.

    Raises:
        DataError: if a column or split is missing, or labels have no names.
        MissingExtraError: without pyarrow.
    """
    names = split_names(place) if place.is_dir() else []
    readers = {name: open_rows(place, name or None) for name in names or [""]}
    first = next(iter(readers.values()))
    source, columns = str(place), list(first.names)
    if group_column is not None:
        choose_column(group_column, (), columns, f"groups of {source}", "group_column")
    dataset = EvaluationDataset(
        place.stem if place.is_file() else place.resolve().name, "captions", {}, source=source
    )
    if set(PAIR_COLUMNS) <= set(columns):
        dataset.kind = "caption_selection"
        list_samples: Any = partial(_pairs, group_column=group_column)
    else:
        image = choose_column(image_column, IMAGE_COLUMNS, columns, f"images of {source}", "image_column")
        label = label_column or (None if caption_column else _label_column(first))
        if label is None:
            what = f"captions or classes of {source}"
            caption = choose_column(caption_column, CAPTION_COLUMNS, columns, what, "caption_column")
            list_samples = partial(_captioned, image=image, caption=caption)
        else:
            choose_column(label, (), columns, f"classes of {source}", "label_column")
            numbers = _numbers(readers.values(), label, classes, source)
            dataset.kind, dataset.classes = _kind(first, label), list(numbers.classes)
            list_samples = partial(
                _classified, image=image, label=label, group=group_column, numbers=numbers, kind=dataset.kind
            )
    folder = place if place.is_dir() else place.parent
    found = {
        name: LazySplit(
            f"the split {name!r} of {source}" if name else source,
            partial(list_samples, reader, folder, f"{source}/{name}" if name else source),
        )
        for name, reader in readers.items()
    }
    dataset.splits = arrange_splits(found, split, source)
    return dataset


class _Numbers:
    """Numbers of labels.

    Attributes:
        classes: the names in order.
    """

    def __init__(self, classes: Sequence[str], by_label: Mapping[str, int] | None, source: str) -> None:
        self.classes, self._by_label, self._source = classes, by_label, source

    def __call__(self, label: Any, row: str) -> int:
        """Return the number of a label.

        Raises:
            DataError: if it is missing or has no name.
        """
        number = self._by_label.get(str(label), -1) if self._by_label is not None else label
        if not isinstance(number, int) or not 0 <= number < len(self.classes):
            raise DataError(
                f"{row} has the label {label!r}; expected one of {len(self.classes)} classes. If this split has no "
                "labels, choose another split"
            )
        return number


def _label_column(reader: RowReader) -> str | None:
    """Return the column of a ClassLabel, or one with a usual name in a dataset without captions."""
    usual = [name for name in LABEL_COLUMNS if name in reader.names]
    named = [name for name in usual if _class_names(reader, name)]
    if named or any(name in reader.names for name in CAPTION_COLUMNS):
        return named[0] if named else None
    return usual[0] if usual else None


def _class_names(reader: RowReader, column: str) -> list[str]:
    """Return the names of a ClassLabel, or of a sequence of it; empty for another column."""
    feature = reader.features.get(column)
    if isinstance(feature, list) and feature:
        feature = feature[0]
    if isinstance(feature, dict) and isinstance(feature.get("feature"), dict):
        feature = feature["feature"]
    names = feature.get("names") if isinstance(feature, dict) else None
    return [str(name).replace("_", " ") for name in names] if isinstance(names, list) else []


def _kind(reader: RowReader, column: str) -> Kind:
    value = next((values[0] for values in reader.rows([column])), None)
    return "multilabel" if isinstance(value, list) else "classes"


def _numbers(readers: Iterable[RowReader], column: str, classes: Sequence[str], source: str) -> _Numbers:
    """Find the classes: those of the ClassLabel, those given, or the labels themselves."""
    names = next((names for reader in readers if (names := _class_names(reader, column))), [])
    if names:
        return _Numbers(names, None, source)
    labels: set[Any] = set()
    for reader in readers:
        for (value,) in reader.rows([column]):
            labels.update(value if isinstance(value, list) else [value])
    texts = {str(label) for label in labels if label is not None}
    if not classes and all(isinstance(label, int) for label in labels):
        raise DataError(
            f"{source} has no class names: its column {column!r} has only numbers. Give a file with one name per line, "
            "in the order of the numbers (classes=…, --classes FILE)"
        )
    numbers = label_numbers(texts, classes, f"{source}, column {column!r}")
    return _Numbers(list(classes or numbers), numbers, source)


def _classified(
    reader: RowReader,
    folder: Path,
    source: str,
    *,
    image: str,
    label: str,
    group: str | None,
    numbers: _Numbers,
    kind: Kind,
) -> Iterator[Sample | Failure]:
    for number, (value, *groups) in enumerate(reader.rows([label, *([group] if group else [])])):
        item = _item(reader, number, image, folder, source)
        of = "" if not groups or groups[0] is None else str(groups[0])
        if kind == "multilabel":
            labels = tuple(numbers(each, item.name) for each in value or ())
            yield Sample(item, labels=labels, group=of)
        else:
            yield Sample(item, numbers(value, item.name), group=of)


def _captioned(
    reader: RowReader, folder: Path, source: str, *, image: str, caption: str
) -> Iterator[Sample | Failure]:
    for number, (value,) in enumerate(reader.rows([caption])):
        item = _item(reader, number, image, folder, source)
        values = value if isinstance(value, list) else [value]
        texts = tuple(text for text in values if isinstance(text, str) and text.strip())
        yield Sample(item, texts=texts) if texts else Failure(item.name, f"{item.name} has no captions")


def _pairs(
    reader: RowReader, folder: Path, source: str, *, group_column: str | None
) -> Iterator[Sample | Failure]:
    if group_column is None and WINOGROUND_GROUP in reader.names:
        group_column = WINOGROUND_GROUP
    columns = ["caption_0", "caption_1", *([group_column] if group_column else [])]
    for number, (one, other, *groups) in enumerate(reader.rows(columns)):
        for image in ("image_0", "image_1"):
            item = _item(reader, number, image, folder, source)
            yield Sample(item, texts=(one, other), group=str(groups[0]) if groups else "", instance=number)


def _item(reader: RowReader, number: int, column: str, folder: Path, source: str) -> Item:
    name = f"{source}:{number + 1}" + (f":{column}" if column in PAIR_COLUMNS else "")
    return Item(name, partial(_read_image, reader, number, column, folder, name))


def _read_image(reader: RowReader, number: int, column: str, folder: Path, name: str) -> bytes:
    """Read the image of a row: bytes, a path, an address, or the form that `datasets` writes."""
    (value,) = reader.read(number, [column])
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str) and value:
        return read_bytes(value if is_address(value) else str(folder / value))
    if not isinstance(value, bytes) or not value:
        raise ImageError(f"{name} has no image in the column {column!r}")
    return value
