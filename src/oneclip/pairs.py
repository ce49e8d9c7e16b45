"""A CSV or Parquet file to pairs of picture names and captions."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from oneclip import arrow
from oneclip.errors import DataError, nearest

SEPARATORS = (",", "\t", ";", "|")
CSV_SUFFIXES = (".csv", ".tsv", ".txt")
PARQUET_SUFFIXES = (".parquet", ".pq")


@dataclass(frozen=True)
class Pairs:
    """Pictures and their captions, row by row.

    Attributes:
        name: of the table, for messages.
        pictures: paths as the table has them.
        captions: one each.
        left_out: rows without a picture or a caption, as (row, what is missing); the first row of data is 1.
    """

    name: str
    pictures: list[str]
    captions: list[str]
    left_out: list[tuple[int, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def checksum(self) -> str:
        """Sixteen hexadecimal digits that change with any name, caption, or their order."""
        digest = hashlib.sha256()
        for picture, caption in zip(self.pictures, self.captions, strict=True):
            digest.update(f"{picture}\0{caption}\0".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()[:16]


def read_table(
    path: str | Path,
    *,
    image_column: str = "filepath",
    caption_column: str = "caption",
    separator: str | None = None,
) -> Pairs:
    """Read a table with a column of picture paths and one of captions.

    Args:
        path: .csv, .tsv or .txt (UTF-8, a header in the first line), or .parquet.
        image_column, caption_column: their names; other columns are ignored.
        separator: between columns of a CSV file; by default the one that makes both names part of the header.

    Raises:
        DataError: if the file is missing or no table, lacks a column, or has no row with both.
        MissingExtraError: for Parquet without pyarrow.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(f"the table {path} {what}; expected a CSV or Parquet file of pictures and captions")
    columns = (image_column, caption_column)
    if path.suffix.lower() in PARQUET_SUFFIXES:
        rows = _parquet_rows(path, columns)
    elif path.suffix.lower() in CSV_SUFFIXES:
        rows = _csv_rows(path, columns, separator)
    else:
        known = ", ".join(CSV_SUFFIXES + PARQUET_SUFFIXES)
        raise DataError(f"{path} has the suffix {path.suffix!r}; expected a table with one of {known}")
    return _pairs(path, rows, columns)


def _pairs(path: Path, rows: Iterable[tuple[object, object]], columns: tuple[str, str]) -> Pairs:
    pairs = Pairs(str(path), [], [])
    for number, values in enumerate(rows, start=1):
        for value, column in zip(values, columns, strict=True):
            if value is not None and not isinstance(value, str):
                raise DataError(
                    f"row {number} of {path} has {value!r} ({type(value).__name__}) as {column!r}; expected text"
                )
        empty = [
            column
            for value, column in zip(values, columns, strict=True)
            if not value or not str(value).strip()
        ]
        if empty:
            pairs.left_out.append((number, " and ".join(empty)))
        else:
            pairs.pictures.append(str(values[0]))
            pairs.captions.append(str(values[1]))
    if not pairs.pictures:
        found = f"{len(pairs.left_out)} rows, none with both" if pairs.left_out else "no rows"
        raise DataError(f"{path} has {found}; expected at least one with {columns[0]!r} and {columns[1]!r}")
    return pairs


def _csv_rows(path: Path, columns: tuple[str, str], separator: str | None) -> Iterator[tuple[object, object]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            if not header.strip():
                raise DataError(f"{path} is empty; expected a header with {columns[0]!r} and {columns[1]!r}")
            file.seek(0)
            reader = csv.reader(file, delimiter=separator or _sniff(header, columns))
            names = [name.strip() for name in next(reader)]
            at = [_find(column, names, path) for column in columns]
            for row in reader:
                if row:
                    first, second = (row[i] if i < len(row) else None for i in at)
                    yield first, second
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no CSV file in UTF-8: {error}") from error


def _sniff(header: str, columns: tuple[str, str]) -> str:
    """The separator that makes both columns part of the header, or else the one that makes most columns."""

    def names(separator: str) -> list[str]:
        return [name.strip() for name in next(csv.reader([header], delimiter=separator))]

    return max(
        SEPARATORS, key=lambda separator: (set(columns) <= set(names(separator)), len(names(separator)))
    )


def _parquet_rows(path: Path, columns: tuple[str, str]) -> Iterator[tuple[object, object]]:
    with arrow.explained(path), arrow.pyarrow().parquet.ParquetFile(path) as file:
        for column in columns:
            _find(column, file.schema_arrow.names, path)
        for batch in file.iter_batches(columns=list(dict.fromkeys(columns))):
            yield from zip(*(arrow.values(batch.column(column)) for column in columns), strict=True)


def _find(column: str, names: list[str], path: Path) -> int:
    if column not in names:
        near = nearest(column, names)
        hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        raise DataError(
            f"{path} has no column {column!r}; {hint}it has {', '.join(map(repr, names))}. "
            "Name the columns of pictures and captions"
        )
    return names.index(column)


def present_pairs(
    pairs: Pairs,
    folder: Path,
    skipped: dict[str, str] | None,
    is_elsewhere: Callable[[str], bool] = lambda name: False,
) -> Pairs:
    """The pairs whose picture is a file. Others are noted in `skipped`, or raise without it.

    Backslashes separate folders everywhere, if that is what finds a file. Names that `is_elsewhere` knows are not
    looked for.

    Raises:
        DataError: naming the first files that are missing, and where they were looked for.
    """
    names = dict.fromkeys(pairs.pictures)
    there = {name: is_elsewhere(name) or _is_file(folder, name) for name in names}
    missing = [name for name, is_there in there.items() if not is_there]
    if not missing:
        return pairs
    if skipped is None or len(missing) == len(there):
        raise DataError(
            f"{len(missing)} of {len(there)} pictures of {pairs.name} are not in {folder}: {_some(missing)}. "
            "Check the folder that paths are relative to, or have missing pictures skipped"
        )
    skipped.update((name, f"{folder / name} does not exist") for name in missing)
    kept = [i for i, name in enumerate(pairs.pictures) if there[name]]
    return Pairs(
        pairs.name, [pairs.pictures[i] for i in kept], [pairs.captions[i] for i in kept], pairs.left_out
    )


def _is_file(folder: Path, name: str) -> bool:
    return os.path.isfile(folder / name) or (
        "\\" in name and os.path.isfile(folder / name.replace("\\", "/"))
    )


def _some(names: Sequence[str], limit: int = 3) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
