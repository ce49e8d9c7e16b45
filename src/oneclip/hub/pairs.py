"""A CSV or Parquet file to pairs of picture names and captions."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from oneclip.errors import DataError
from oneclip.hub.addresses import with_slashes
from oneclip.hub.tables import CSV_SUFFIXES, PARQUET_SUFFIXES, TableReader

SUFFIXES = (*CSV_SUFFIXES, ".txt", *PARQUET_SUFFIXES)


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
        path: .csv, .tsv or .txt (UTF-8, a header in the first line), or .parquet; see `oneclip.hub.tables`.
        image_column, caption_column: their names; other columns are ignored.
        separator: between columns of a CSV file; by default the one that makes both names part of the header.

    Raises:
        DataError: if the file is missing or no table, lacks a column, has a row with more or fewer fields than its
            header, or no row with both.
        MissingExtraError: for Parquet without pyarrow.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(f"the table {path} {what}; expected a CSV or Parquet file of pictures and captions")
    if not is_table(path):
        known = ", ".join(SUFFIXES)
        raise DataError(f"{path} has the suffix {path.suffix!r}; expected a table with one of {known}")
    columns = (image_column, caption_column)
    table = TableReader(str(path), separator=separator, wanted=columns)
    if not table.names:
        raise DataError(f"{path} is empty; expected a header with {image_column!r} and {caption_column!r}")
    for column in columns:
        table.check_column(column, ". Name the columns of pictures and captions")
    pairs = Pairs(str(path), [], [])
    for row in table.rows(columns):
        if row.problem is not None:
            raise DataError(row.problem)
        for value, column in zip(row.values, columns, strict=True):
            if value is not None and not isinstance(value, str):
                raise DataError(
                    f"row {row.number} of {path} has {value!r} ({type(value).__name__}) as {column!r}; expected text"
                )
        empty = [
            column for value, column in zip(row.values, columns, strict=True) if not (value or "").strip()
        ]
        if empty:
            pairs.left_out.append((row.number, " and ".join(empty)))
        else:
            pairs.pictures.append(row.values[0])
            pairs.captions.append(row.values[1])
    if not pairs.pictures:
        found = f"{len(pairs.left_out)} rows, none with both" if pairs.left_out else "no rows"
        raise DataError(f"{path} has {found}; expected at least one with {columns[0]!r} and {columns[1]!r}")
    return pairs


def is_table(path: str | Path) -> bool:
    """Whether a file is a table of pairs, by its name."""
    return Path(path).suffix.lower() in SUFFIXES


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
    there = {
        name: is_elsewhere(name) or os.path.isfile(with_slashes(os.path.join(folder, name))) for name in names
    }
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


def _some(names: Sequence[str], limit: int = 3) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
