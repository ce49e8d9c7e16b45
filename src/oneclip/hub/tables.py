"""Read the rows of CSV and Parquet tables, local or remote; report rows that do not fit the header."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, BinaryIO

from oneclip.errors import DataError, OneCLIPError, nearest_names
from oneclip.hub import arrow
from oneclip.hub.addresses import open_binary

CSV_SUFFIXES = (".csv", ".tsv")
PARQUET_SUFFIXES = (".parquet", ".pq")
SEPARATORS = (",", "\t", ";", "|")
MAX_FIELD_CHARS = 1 << 27  # characters: enough for an image in base64, less than a whole table
_PARQUET_BATCH_ROWS = 256  # rows of a Parquet batch: a column of images is large


@dataclass(frozen=True)
class TableRow:
    """Row of a table.

    Attributes:
        number: counted from 1, without blank lines and the header.
        values: of the requested columns: text, or a Parquet value. Empty if there is a problem.
        problem: why the row cannot be used, with its line number.
    """

    number: int
    values: tuple[Any, ...] = ()
    problem: str | None = None


class TableReader:
    """Table whose header has been read.

    CSV is UTF-8 with a header line; fields that contain a separator, a quote or a line break are quoted with `"`,
    doubled inside, whatever the separator is.

    Args:
        location: path or address; Parquet by its suffix, otherwise CSV.
        separator: of CSV; by default the one that makes most of `wanted` column names, then most columns.
        wanted: column names that the caller looks for; case is ignored here.

    Attributes:
        names: of the columns.
        types: Arrow types by column name; empty for CSV.
        count: number of rows; None for CSV, which would have to be read.

    Raises:
        DataError: if the file does not exist or is not a table.
        MissingExtraError: for Parquet without pyarrow.
    """

    def __init__(self, location: str, *, separator: str | None = None, wanted: Collection[str] = ()) -> None:
        self.location = location
        self.is_parquet = PurePath(location).suffix.lower() in PARQUET_SUFFIXES
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
        """Return the name of a column if exactly one column has it.

        Raises:
            DataError: listing similar and all columns; `hint` is appended.
        """
        if self.names.count(column) == 1:
            return column
        has = f"it has {', '.join(map(repr, self.names)) or 'none'}"
        if column in self.names:
            raise DataError(f"{self.location} has {self.names.count(column)} columns {column!r}; {has}{hint}")
        near = nearest_names(column, self.names)
        suggestion = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        raise DataError(f"{self.location} has no column {column!r}; {suggestion}{has}{hint}")

    def rows(self, columns: Sequence[str]) -> Iterator[TableRow]:
        """Yield all rows.

        Args:
            columns: names of the wanted columns, in the wanted order.

        Raises:
            DataError: if the table is damaged, is not UTF-8, or a quote is never closed.
        """
        with self._opened() as stream:
            yield from (
                self._parquet_rows(stream, columns) if self.is_parquet else self._csv_rows(stream, columns)
            )

    def _csv_rows(self, stream: BinaryIO, columns: Sequence[str]) -> Iterator[TableRow]:
        csv.field_size_limit(max(MAX_FIELD_CHARS, csv.field_size_limit()))
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
                yield TableRow(number, tuple(fields[index] for index in indices))
                continue
            separator = _SEPARATOR_NAMES.get(self._separator, repr(self._separator))
            yield TableRow(
                number,
                problem=f"line {first_line} of {self.location} has {_count(fields)} and its header has "
                f"{len(self.names)}; a field that contains {separator} must be quoted",
            )

    def _parquet_rows(self, stream: BinaryIO, columns: Sequence[str]) -> Iterator[TableRow]:
        number = 0
        with arrow.as_data_error(self.location):
            for batch in self._parquet(stream).iter_batches(
                _PARQUET_BATCH_ROWS, columns=list(dict.fromkeys(columns))
            ):
                for values in zip(
                    *(arrow.column_values(batch.column(column)) for column in columns), strict=True
                ):
                    number += 1
                    yield TableRow(number, values)

    def _opened(self) -> BinaryIO:
        try:
            return open_binary(self.location)
        except FileNotFoundError as error:
            raise DataError(f"{self.location}: no such file; expected a table") from error
        except OSError as error:
            if isinstance(error, OneCLIPError):
                raise
            raise DataError(f"{self.location} cannot be read: {error.strerror or error}") from error

    def _parquet(self, stream: BinaryIO) -> Any:
        pyarrow = arrow.import_pyarrow()
        with arrow.as_data_error(self.location):
            return pyarrow.parquet.ParquetFile(stream)

    def _quoting_problem(self, error: str, first_line: int, line: int) -> str:
        where = f"{self.location}: in the row that starts at line {first_line}"
        if "end of data" in error:
            return f'{where} a quote (") is never closed; double a quote inside a quoted field'
        if "expected after" in error:
            return (
                f'{where} text follows a closing quote (") in line {line}; close the quote at the end of the field, '
                "and double a quote inside a quoted field"
            )
        if "field limit" in error:
            return f'{where} a field has more than {MAX_FIELD_CHARS:,} characters; probably a quote (") is not closed'
        return f"{where}: {error}"

    def _no_text(self, error: UnicodeDecodeError) -> DataError:
        return DataError(f"{self.location} is not a CSV file in UTF-8: {error}")


_SEPARATOR_NAMES = {",": "a comma", "\t": "a tab", ";": "a semicolon"}


def _count(fields: Sequence[str]) -> str:
    return "1 field" if len(fields) == 1 else f"{len(fields)} fields"


def _fields(line: str, separator: str) -> list[str]:
    return [name.strip() for name in next(csv.reader([line], delimiter=separator), [])]


def _separator(header: str, wanted: Collection[str]) -> str:
    """Return the separator that makes most of the wanted column names, then most columns."""
    names = {name.lower() for name in wanted}

    def rank(separator: str) -> tuple[int, int]:
        found = [name.lower() for name in _fields(header, separator)]
        return len(names & set(found)), len(found)

    return max(SEPARATORS, key=rank)
