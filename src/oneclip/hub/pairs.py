"""Read tables of image names and captions (CSV or Parquet)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from oneclip.errors import DataError, ImageError, ImageNotFoundError
from oneclip.hub.addresses import regular_file_size, with_slashes
from oneclip.hub.tables import CSV_SUFFIXES, PARQUET_SUFFIXES, TableReader

SUFFIXES = (*CSV_SUFFIXES, ".txt", *PARQUET_SUFFIXES)


@dataclass(frozen=True)
class CaptionPairs:
    """Images and their captions, row by row.

    Attributes:
        name: of the table, for messages.
        images: paths as written in the table.
        captions: one for each image.
        incomplete: rows without image or caption, as (row, missing columns); the first data row is 1.
    """

    name: str
    images: list[str]
    captions: list[str]
    incomplete: list[tuple[int, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def checksum(self) -> str:
        """Checksum of 16 hexadecimal digits that changes with any name, caption, or their order."""
        digest = hashlib.sha256()
        for image, caption in zip(self.images, self.captions, strict=True):
            digest.update(f"{image}\0{caption}\0".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()[:16]


def read_pairs(
    path: str | Path,
    *,
    image_column: str = "filepath",
    caption_column: str = "caption",
    separator: str | None = None,
) -> CaptionPairs:
    """Read a table with a column of image paths and a column of captions.

    Args:
        path: .csv, .tsv or .txt (UTF-8 with a header line), or .parquet; see `oneclip.hub.tables`.
        image_column, caption_column: names of the columns; others are ignored.
        separator: of a CSV file; by default the one for which the header contains both columns.

    Raises:
        DataError: if the file does not exist or is not a table, lacks a column, has a row with more or fewer fields
            than its header, or has no complete row.
        MissingExtraError: for Parquet without pyarrow.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(f"the table {path} {what}; expected a CSV or Parquet file of images and captions")
    if not is_pairs_table(path):
        known = ", ".join(SUFFIXES)
        raise DataError(f"{path} has the suffix {path.suffix!r}; expected a table with one of {known}")
    columns = (image_column, caption_column)
    table = TableReader(str(path), separator=separator, wanted=columns)
    if not table.names:
        raise DataError(f"{path} is empty; expected a header with {image_column!r} and {caption_column!r}")
    for column in columns:
        table.check_column(column, ". Name the columns of images and captions")
    pairs = CaptionPairs(str(path), [], [])
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
            pairs.incomplete.append((row.number, " and ".join(empty)))
        else:
            pairs.images.append(row.values[0])
            pairs.captions.append(row.values[1])
    if not pairs.images:
        found = f"{len(pairs.incomplete)} rows, none with both" if pairs.incomplete else "no rows"
        raise DataError(
            f"{path} has {found}; expected at least one row with {columns[0]!r} and {columns[1]!r}"
        )
    return pairs


def is_pairs_table(path: str | Path) -> bool:
    """Return whether a file name has the suffix of a table."""
    return Path(path).suffix.lower() in SUFFIXES


def with_existing_images(
    pairs: CaptionPairs,
    folder: Path,
    skipped: dict[str, str] | None,
    is_elsewhere: Callable[[str], bool] = lambda name: False,
) -> CaptionPairs:
    """Keep the pairs whose image file exists. Record the others in `skipped`, or raise if it is None.

    Backslashes in names are treated as slashes if only that finds a file.

    Args:
        pairs: of a table.
        folder: that paths are relative to.
        skipped: receives the reason for each missing image by its name.
        is_elsewhere: returns whether a name need not be a file in the folder, such as a URL.

    Raises:
        DataError: naming the first missing files and the folder that was searched.
    """
    names = dict.fromkeys(pairs.images)
    there = {
        name: is_elsewhere(name) or os.path.isfile(with_slashes(os.path.join(folder, name))) for name in names
    }
    missing = [name for name, is_there in there.items() if not is_there]
    if not missing:
        return pairs
    if skipped is None or len(missing) == len(there):
        raise DataError(
            f"{len(missing)} of {len(there)} images of {pairs.name} are not in {folder}: {_some(missing)}. "
            "Check the folder that paths are relative to, or skip missing images"
        )
    skipped.update((name, _why_unusable(folder / name)) for name in missing)
    kept = [i for i, name in enumerate(pairs.images) if there[name]]
    return CaptionPairs(
        pairs.name, [pairs.images[i] for i in kept], [pairs.captions[i] for i in kept], pairs.incomplete
    )


def _why_unusable(path: Path) -> str:
    """Return why a path that is not a regular file cannot be used."""
    try:
        regular_file_size(str(path))
    except ImageNotFoundError:
        return f"{path} does not exist"
    except (ImageError, OSError) as error:  # a pipe, a folder, or one that may not be entered
        return str(error)
    return f"{path} has just appeared; run again"


def _some(names: Sequence[str], limit: int = 3) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
