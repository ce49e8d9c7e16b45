"""Read and write rows as a Lance dataset: columns `name`, `sha256` and `vector`, and settings in the schema.

Each part is a commit: a new version of the dataset, which readers see completely or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from oneclip.embed.formats.parquet import STAMP_COLUMNS, digest_columns, metadata_of_schema, rows_to_table
from oneclip.embed.items import FileStamp
from oneclip.embed.rows import EmbeddingMetadata, EmbeddingRows
from oneclip.errors import BrokenExtraError, DataError, MissingExtraError, OutputError

if TYPE_CHECKING:
    from oneclip.encoder import Features

SUFFIX = ".lance"
_NAMES_PER_DELETE = 1000
_RUST_LOCATION = re.compile(r",?\s+(location: )?\S+\.rs:\d+(:\d+)?")


class LanceDataset:
    """Rows of a Lance dataset by name.

    Args:
        path: of the dataset; created with the first part.
        metadata: what makes the embeddings of this run.
        overwrite: replace an existing dataset with the first part; until then it is unchanged.

    Attributes:
        damaged: always empty: a version is complete or absent.

    Raises:
        OutputError: if an existing dataset was made by another model.
    """

    def __init__(self, path: Path, metadata: EmbeddingMetadata, *, overwrite: bool = False) -> None:
        self._path, self._metadata, self._replaces = path, metadata, overwrite
        self.damaged: list[str] = []
        self._digests: dict[str, str] = {}
        self._stamps: dict[str, FileStamp] = {}
        self._by_content: dict[str, int] = {}  # digest to row index in the initial version
        self._initial: Any = None  # the dataset as it was opened
        self._has_stamps = True  # a dataset without stamp columns keeps its schema
        self._dropped: set[str] = set()  # names of rows to delete
        if overwrite or not is_lance_dataset(path):
            self._replaces = True
            return
        try:
            metadata.require_same(_read_metadata(path), path)
            self._read()
        except DataError as error:
            raise OutputError(f"{error}. Name another output, or --overwrite to replace it") from error

    def __len__(self) -> int:
        return len(self._digests)

    def digest(self, name: str) -> str | None:
        """Return the content hash of the row with this name, or None."""
        return self._digests.get(name)

    def digests(self) -> Iterator[tuple[str, str]]:
        """Return names and content hashes of all rows."""
        return iter(self._digests.items())

    def stamp(self, name: str) -> FileStamp | None:
        """Return the recorded size and modification time of the file of a row."""
        return self._stamps.get(name)

    def restamp(self, name: str, stamp: FileStamp) -> None:
        """Do nothing: rows are not rewritten because of a modification time."""

    def vector(self, digest: str) -> Features | None:
        """Return the embedding (D,) of content with this hash in the initial version, under any name."""
        if digest not in self._by_content:
            return None
        with self._errors("read"):
            found = self._initial.take([self._by_content[digest]], columns=["vector"])["vector"]
        return np.array(found.to_pylist()[0], np.float32)

    def write(self, rows: EmbeddingRows) -> None:
        """Commit rows; rows with the same names are replaced.

        Raises:
            OutputError: if they cannot be written; the dataset is unchanged.
        """
        lance = import_lance()
        table = rows_to_table(rows, self._metadata)
        if not self._has_stamps and not self._replaces:
            table = table.drop_columns(list(STAMP_COLUMNS))
        with self._errors():
            if self._replaces:
                mode = "overwrite" if is_lance_dataset(self._path) else "create"
                lance.write_dataset(table, str(self._path), mode=mode)
            elif self._digests.keys().isdisjoint(rows.names) and self._dropped.isdisjoint(rows.names):
                lance.write_dataset(table, str(self._path), mode="append")
            else:
                dataset = lance.dataset(str(self._path))
                merge = dataset.merge_insert("name")
                table = with_columns(table, dataset.schema)  # what was known of the replaced content is void
                merge.when_matched_update_all().when_not_matched_insert_all().execute(table)
        self._replaces = False
        self._digests.update(zip(rows.names, rows.digests, strict=True))
        self._stamps.update(
            (name, s) for name, s in zip(rows.names, rows.stamps, strict=True) if s is not None
        )
        self._dropped.difference_update(rows.names)

    def drop(self, name: str) -> None:
        """Drop the row of an item whose content has changed and can no longer be encoded."""
        del self._digests[name]
        self._stamps.pop(name, None)
        self._dropped.add(name)

    def compact(self) -> None:
        """Delete the dropped rows from the dataset."""
        names = sorted(self._dropped)
        for start in range(0, len(names), _NAMES_PER_DELETE):
            quoted = ", ".join(
                "'" + name.replace("'", "''") + "'" for name in names[start : start + _NAMES_PER_DELETE]
            )
            with self._errors():
                import_lance().dataset(str(self._path)).delete(f"name IN ({quoted})")
        self._dropped.clear()

    def _read(self) -> None:
        lance = import_lance()
        try:
            self._initial = lance.dataset(str(self._path))
            self._has_stamps = set(STAMP_COLUMNS) <= set(self._initial.schema.names)
            columns = ["name", "sha256", *(STAMP_COLUMNS if self._has_stamps else ())]
            for batch in self._initial.to_batches(columns=columns):
                for name, digest, stamp in zip(*digest_columns(batch), strict=True):
                    self._by_content[digest] = len(self._digests)
                    self._digests[name] = digest
                    if stamp is not None:
                        self._stamps[name] = stamp
        except Exception as error:
            raise DataError(f"{self._path} is damaged: {error_text(error)}") from error

    @contextmanager
    def _errors(self, what: str = "written") -> Iterator[None]:
        """Turn the exceptions of Lance into OutputError."""
        try:
            yield
        except Exception as error:  # Lance raises OSError, ValueError, RuntimeError, and PanicException
            raise OutputError(
                f"{self._path} could not be {what}: {error_text(error)}. The dataset is unchanged"
            ) from error


def check_lance(path: Path, *, overwrite: bool) -> None:
    """Check before the work starts that the dataset can be written.

    Raises:
        MissingExtraError: if Lance is not installed.
        OutputError: if the path is not a dataset of `oneclip embed`.
    """
    if find_spec("lance") is None:
        raise MissingExtraError("Writing Lance", "lance")
    if path.exists() and not path.is_dir():
        raise OutputError(f"{path} is a file, but a Lance dataset is a folder; choose another output")
    if is_lance_dataset(path):
        if not overwrite:
            try:
                _read_metadata(path)
            except DataError as error:
                raise OutputError(f"{error}. Name another output, or --overwrite to replace it") from error
    elif path.is_dir() and any(
        not entry.name.startswith((".", "_")) and entry.name != "data" for entry in path.iterdir()
    ):
        raise OutputError(f"the folder {path} is not a Lance dataset; choose an empty or new folder")


def is_lance_dataset(path: Path) -> bool:
    """Return whether a version was ever committed at this path."""
    return any((path / "_versions").glob("*.manifest"))


def _read_metadata(path: Path) -> EmbeddingMetadata:
    try:
        return metadata_of_schema(import_lance().dataset(str(path)).schema)
    except MissingExtraError:
        raise
    except Exception as error:
        raise DataError(
            f"{path} is damaged or was not written by `oneclip embed`: {error_text(error)}"
        ) from error


def with_columns(table: Any, schema: Any) -> Any:
    """Add the columns of a schema that a table does not have, without values."""
    import pyarrow as pa

    for field in schema:
        if field.name not in table.schema.names:
            table = table.append_column(field, pa.nulls(len(table), field.type))
    return table


def error_text(error: Exception) -> str:
    """Return the message of an exception of Lance, without the places in its source code."""
    return _RUST_LOCATION.sub("", str(error)).strip(" ,") or type(error).__name__


def import_lance(feature: str = "Writing Lance") -> Any:
    """Import Lance.

    Args:
        feature: what needs it, for the error message.

    Raises:
        MissingExtraError: if it is not installed.
    """
    if find_spec("lance") is None:
        raise MissingExtraError(feature, "lance")
    try:
        import lance
    except ImportError as error:
        raise BrokenExtraError(feature, "pylance", str(error)) from error
    return lance
