"""A table (CSV or Parquet, a path or an address) to its rows; a row that its header does not fit is an error."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, BinaryIO

from oneclip.errors import DataError, OneCLIPError, nearest
from oneclip.hub import arrow
from oneclip.hub.addresses import open_binary

CSV_SUFFIXES = (".csv", ".tsv")
PARQUET_SUFFIXES = (".parquet", ".pq")
SEPARATORS = (",", "\t", ";", "|")
LONGEST_FIELD = 1 << 27  # characters: room for an image in base64, and not for the rest of a table
_ROWS_AT_ONCE = 256  # of Parquet: a column of images is large


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        number: from 1; blank lines and the header do not count.
        values: of the columns that were asked for; text, or what Parquet has. Empty if there is a problem.
        problem: why the row cannot be used, with its line.
    """

    number: int
    values: tuple[Any, ...] = ()
    problem: str | None = None


class TableReader:
    """A table whose header has been read.

    CSV is UTF-8 with a header, fields quoted with `"` (doubled inside) where they hold a separator, a quote or a
    line break, whatever the separator is.

    Args:
        place: path or address; Parquet by its suffix, else CSV.
        separator: of CSV; by default the one that makes most of `wanted` names of columns, or else most columns.
        wanted: names of columns that the caller looks for; upper and lower case are the same here.

    Attributes:
        names: of the columns.
        types: Arrow's types of them by name; empty for CSV.
        count: how many rows there are; None for CSV, which has to be read for that.

    Raises:
        DataError: if there is no such file, or it is no table.
        MissingExtraError: for Parquet without pyarrow.
    """

    def __init__(self, place: str, *, separator: str | None = None, wanted: Collection[str] = ()) -> None:
        self.place = place
        self.is_parquet = PurePath(place).suffix.lower() in PARQUET_SUFFIXES
        self.types: dict[str, str] = {}
        self.count: int | None = None
        with self._opened() as stream:
            if self.is_parquet:
                file = self._parquet(stream)
                self.names: list[str] = [name.strip() for name in file.schema_arrow.names]
                self.types = {field.name.strip(): str(field.type) for field in file.schema_arrow}
                self.count = int(file.metadata.num_rows)
                return
            try:
                header = io.TextIOWrapper(stream, "utf-8-sig", newline="").readline()
            except UnicodeDecodeError as error:
                raise self._no_text(error) from error
        self._separator = separator or _separator(header, wanted)
        self.names = _fields(header, self._separator)

    def check_column(self, column: str, hint: str = "") -> str:
        """Return a column's name if there is exactly one.

        Raises:
            DataError: naming the nearest, and all; `hint` ends it.
        """
        if self.names.count(column) == 1:
            return column
        has = f"it has {', '.join(map(repr, self.names)) or 'none'}"
        if column in self.names:
            raise DataError(f"{self.place} has {self.names.count(column)} columns {column!r}; {has}{hint}")
        near = nearest(column, self.names)
        meant = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        raise DataError(f"{self.place} has no column {column!r}; {meant}{has}{hint}")

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """Read all rows.

        Args:
            columns: which values are wanted, and in which order.

        Raises:
            DataError: if the table cannot be read on: it is damaged, no UTF-8, or a quote is never closed.
        """
        with self._opened() as stream:
            yield from (
                self._parquet_rows(stream, columns) if self.is_parquet else self._csv_rows(stream, columns)
            )

    def _csv_rows(self, stream: BinaryIO, columns: Sequence[str]) -> Iterator[Row]:
        csv.field_size_limit(max(LONGEST_FIELD, csv.field_size_limit()))
        lines = io.TextIOWrapper(stream, "utf-8-sig", newline="")
        reader = csv.reader(lines, delimiter=self._separator, strict=True)
        indices = [self.names.index(column) for column in columns]
        number = -1  # the header is row 0
        while True:
            first_line = reader.line_num + 1
            try:
                fields = next(reader, None)
            except UnicodeDecodeError as error:
                raise self._no_text(error) from error
            except csv.Error as error:
                raise DataError(self._quoting_problem(str(error), first_line, reader.line_num)) from error
            if fields is None:
                return
            if not any(field.strip() for field in fields) and len(fields) < 2:
                continue  # a blank line
            number += 1
            if number == 0:
                continue
            if len(fields) == len(self.names):
                yield Row(number, tuple(fields[index] for index in indices))
                continue
            yield Row(
                number,
                problem=f"line {first_line} of {self.place} has {_count(fields)} and its header has {len(self.names)}; "
                f"a field with {_NAMES.get(self._separator, repr(self._separator))} in it needs quotes around it",
            )

    def _parquet_rows(self, stream: BinaryIO, columns: Sequence[str]) -> Iterator[Row]:
        number = 0
        with arrow.explained(self.place):
            for batch in self._parquet(stream).iter_batches(
                _ROWS_AT_ONCE, columns=list(dict.fromkeys(columns))
            ):
                for values in zip(*(arrow.values(batch.column(column)) for column in columns), strict=True):
                    number += 1
                    yield Row(number, values)

    def _opened(self) -> BinaryIO:
        try:
            return open_binary(self.place)
        except FileNotFoundError as error:
            raise DataError(f"{self.place}: no such file; expected a table") from error
        except OSError as error:
            if isinstance(error, OneCLIPError):
                raise
            raise DataError(f"{self.place} cannot be read: {error.strerror or error}") from error

    def _parquet(self, stream: BinaryIO) -> Any:
        pyarrow = arrow.pyarrow()
        with arrow.explained(self.place):
            return pyarrow.parquet.ParquetFile(stream)

    def _quoting_problem(self, error: str, first_line: int, line: int) -> str:
        where = f"{self.place}: in the row that begins in line {first_line}"
        if "end of data" in error:
            return f'{where} a quote (") is opened and never closed; a quote within a quoted field is doubled'
        if "expected after" in error:
            return (
                f'{where} text follows a closing quote (") in line {line}; a quote is not closed where it should be, '
                "or one within a quoted field is not doubled"
            )
        if "field limit" in error:
            return f'{where} a field has more than {LONGEST_FIELD:,} characters; a quote (") is probably not closed'
        return f"{where}: {error}"

    def _no_text(self, error: UnicodeDecodeError) -> DataError:
        return DataError(f"{self.place} is no CSV file in UTF-8: {error}")


_NAMES = {",": "a comma", "\t": "a tab", ";": "a semicolon"}


def _count(fields: Sequence[str]) -> str:
    return "1 field" if len(fields) == 1 else f"{len(fields)} fields"


def _fields(line: str, separator: str) -> list[str]:
    return [name.strip() for name in next(csv.reader([line], delimiter=separator), [])]


def _separator(header: str, wanted: Collection[str]) -> str:
    """The separator that makes most of the wanted names columns, or else the one that makes most columns."""
    names = {name.lower() for name in wanted}

    def rank(separator: str) -> tuple[int, int]:
        found = [name.lower() for name in _fields(header, separator)]
        return len(names & set(found)), len(found)

    return max(SEPARATORS, key=rank)
