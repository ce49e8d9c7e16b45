"""CSV and Parquet tables to the pictures that a column holds or names, or to the captions in it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from oneclip import arrow
from oneclip.embed.items import Failure, Found, Item
from oneclip.embed.sources.files import file_item
from oneclip.embed.sources.lines import beside
from oneclip.errors import DataError, nearest
from oneclip.hub.addresses import open_binary

CSV_SUFFIXES = (".csv", ".tsv")
PARQUET_SUFFIXES = (".parquet", ".pq")
PICTURE_COLUMNS = (
    *("filepath", "path", "image_path", "file_name", "filename", "image", "url", "image_url"),
    *("bytes", "jpg", "png"),
)
CAPTION_COLUMNS = ("caption", "text", "title")
SEPARATORS = (",", "\t", ";", "|")


class Table:
    """A table; a picture with a path or an address is called by it, all else `table.csv:7`, counted from 1.

    A value may be a path, an address, the bytes of a file, or what `datasets` writes: {"bytes": …, "path": …}.

    Args:
        place: path or address of a .csv, .tsv (UTF-8, with a header), .parquet or .pq file.
        texts: whether the column has captions.
        column: its name; by default the first that is called like one.
        folder: what paths in it are relative to; the table's own folder if not given.
    """

    def __init__(self, place: str, *, texts: bool, column: str | None, folder: str | None) -> None:
        self.name, self._texts, self._folder = place, texts, folder
        self.is_parquet = place.lower().endswith(PARQUET_SUFFIXES)
        self._count: int | None = None
        types: dict[str, str] = {}
        with _opened(place) as stream:
            if self.is_parquet:
                file = _parquet(stream, place)
                names, self._count = file.schema_arrow.names, int(file.metadata.num_rows)
                types = {field.name: str(field.type) for field in file.schema_arrow}
            else:
                header = _header(stream, place)
                wanted = (column,) if column else _usual(texts)
                self._separator = _separator(header, wanted)
                names = next(csv.reader([header], delimiter=self._separator), [])
        self._names: list[str] = [name.strip() for name in names]
        self._column = self._choose(column)
        self.is_bulky = types.get(self._column, "string") not in ("string", "large_string", "string_view")

    def count(self) -> int | None:
        """How many rows a Parquet file has; of CSV nobody knows before it is read."""
        return self._count

    def __iter__(self) -> Iterator[Found]:
        for number, value in enumerate(self._values(), 1):
            yield self._item(f"{self.name}:{number}", value)

    def _item(self, row: str, value: Any) -> Found:
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if value is None or not len(value) or (isinstance(value, str) and not value.strip()):
            return Failure(row, f"{row}: nothing stands in its column {self._column!r}")
        if isinstance(value, bytes):
            return Item(row, partial(bytes, value))
        if self._texts:
            return Item(row, partial(value.encode, "utf-8", "surrogatepass"))
        return file_item(beside(self.name, value.strip(), self._folder))

    def _values(self) -> Iterator[Any]:
        with _opened(self.name) as stream:
            if self.is_parquet:
                for batch in _batches(_parquet(stream, self.name), self._column, self.name):
                    yield from map(self._checked, batch.column(0).to_pylist())
                return
            index = self._names.index(self._column)
            try:
                rows = csv.reader(
                    io.TextIOWrapper(stream, "utf-8-sig", newline=""), delimiter=self._separator
                )
                next(rows, None)
                for row in rows:
                    if row:
                        yield row[index] if index < len(row) else None
            except (UnicodeDecodeError, csv.Error) as error:
                raise DataError(f"{self.name} is no CSV file in UTF-8: {error}") from error

    def _checked(self, value: Any) -> Any:
        if value is None or isinstance(value, (str, dict) if self._texts else (str, bytes, dict)):
            return value
        raise DataError(
            f"the column {self._column!r} of {self.name} has {type(value).__name__}; "
            f"expected {'captions' if self._texts else 'paths, addresses or bytes'}: --column names another"
        )

    def _choose(self, column: str | None) -> str:
        if column is not None and column in self._names:
            return column
        has = f"it has {', '.join(map(repr, self._names)) or 'none'}"
        if column is not None:
            near = nearest(column, self._names)
            hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
            raise DataError(f"{self.name} has no column {column!r}; {hint}{has}")
        lowered: dict[str, str] = {name.lower(): name for name in reversed(self._names)}
        for usual in _usual(self._texts):
            if usual in lowered:
                return lowered[usual]
        what = "captions" if self._texts else "pictures"
        raise DataError(f"{self.name}: which column has the {what}? Say --column NAME; {has}")


def _usual(texts: bool) -> tuple[str, ...]:
    return CAPTION_COLUMNS if texts else PICTURE_COLUMNS


def _separator(header: str, wanted: Sequence[str]) -> str:
    """The separator that makes a column we look for part of the header, or else the one that makes most columns."""

    def rank(separator: str) -> tuple[bool, int]:
        names = [name.strip().lower() for name in next(csv.reader([header], delimiter=separator), [])]
        return bool({name.lower() for name in wanted} & set(names)), len(names)

    return max(SEPARATORS, key=rank)


def _header(stream: Any, place: str) -> str:
    try:
        return io.TextIOWrapper(stream, "utf-8-sig", newline="").readline()
    except UnicodeDecodeError as error:
        raise DataError(f"{place} is no CSV file in UTF-8: {error}") from error


def _batches(file: Any, column: str, place: str) -> Iterator[Any]:
    """Rows of one column, 256 at a time: a column of pictures is large."""
    with arrow.explained(place):
        for batch in file.iter_batches(256, columns=[column]):
            yield arrow.sound(batch)


def _opened(place: str) -> Any:
    try:
        return open_binary(place)
    except FileNotFoundError as error:
        raise DataError(f"{place}: no such file; expected a table") from error


def _parquet(stream: Any, place: str) -> Any:
    pyarrow = arrow.pyarrow()
    with arrow.explained(place):
        return pyarrow.parquet.ParquetFile(stream)
