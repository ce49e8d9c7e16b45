"""Rows of Hugging Face datasets on disk: folders of `save_to_disk`, and Parquet files.

Arrow files are mapped into memory. Of a Parquet file, only the row group with the requested row is read. Needs pyarrow
but not `datasets`.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from oneclip.errors import CheckpointError, DataError, nearest_names
from oneclip.hub import arrow
from oneclip.hub.json_file import read_json

IMAGE_COLUMNS = ("image", "img", "picture", "jpg", "png", "image_path", "filepath", "file_name", "url")
CAPTION_COLUMNS = ("caption", "captions", "text", "texts", "sentences", "title", "txt")
FEATURE, STREAM = "Reading datasets", "valid Arrow stream"
PARQUET_BLOCK_SIZE = 64  # rows of a Parquet file that are read together
_TAIL_BYTES = 1 << 14  # bytes at the end of a file that identify its content
_CACHED_ROW_GROUPS = 4


class RowReader(ABC):
    """Reader of table rows by number.

    Attributes:
        files: the files with the rows.
        names: column names.
        features: what `datasets` writes about each column, such as the names of a ClassLabel; may be empty.
        digest: text that changes when the files change.
    """

    names: Sequence[str] = ()
    features: Mapping[str, Any]
    block_size = 1

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = tuple(files)
        digest = hashlib.sha256()
        for file in files:
            digest.update(
                f"{file.name}\0{file.stat().st_size}\0".encode("utf-8", "surrogateescape") + _tail(file)
            )
        self.digest = digest.hexdigest()[:16]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, number: int, columns: Sequence[str]) -> list[Any]:
        """Return the values of some columns in one row."""

    @abstractmethod
    def rows(self, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """Yield the values of some columns in all rows, without reading the other columns."""


class ArrowReader(RowReader):
    """Reader of Arrow streams.

    Args:
        files: the streams.
        indices: streams with the numbers of the selected rows, in order; empty to select all rows.
    """

    def __init__(self, files: Sequence[Path], indices: Sequence[Path] = ()) -> None:
        super().__init__([*files, *indices])
        self._state = (tuple(files), tuple(indices))
        self._map()

    def __len__(self) -> int:
        return len(self._indices) if self._indices is not None else int(self._starts[-1])

    def read(self, number: int, columns: Sequence[str]) -> list[Any]:
        if self._indices is not None:
            number = int(self._indices[number])
        index = int(np.searchsorted(self._starts, number, side="right")) - 1
        file, batch = self._batches[index]
        with arrow.as_data_error(file, STREAM):
            row = [
                self._column(index, batch, column)[number - int(self._starts[index])] for column in columns
            ]
            return [value.as_py() for value in row]

    def rows(self, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        if self._indices is not None:
            yield from (tuple(self.read(number, columns)) for number in range(len(self)))
            return
        for index, (file, batch) in enumerate(self._batches):
            with arrow.as_data_error(file, STREAM):
                values = [self._column(index, batch, column).to_pylist() for column in columns]
            yield from zip(*values, strict=True)

    def _column(self, index: int, batch: Any, name: str) -> Any:
        """Return a column of a batch; validate it when it is read for the first time."""
        if (index, name) not in self._validated:
            arrow.validated(batch.column(name))
            self._validated.add((index, name))
        return batch.column(name)

    def _map(self) -> None:
        files, indices = self._state
        self._batches = [(file, batch) for file in files for batch in _read_stream(file)]
        self._validated: set[tuple[int, str]] = set()
        self._starts = np.cumsum([0, *(batch.num_rows for _, batch in self._batches)])
        with arrow.as_data_error(files[0], STREAM):
            schema = self._batches[0][1].schema if self._batches else None
            self.names = schema.names if schema is not None else ()
            self.features = _features(schema)
        parts = [self._numbers(file, batch) for file in indices for batch in _read_stream(file)]
        self._indices = np.concatenate(parts) if parts else None

    def _numbers(self, file: Path, batch: Any) -> Any:
        """Return the row numbers in a batch of indices."""
        with arrow.as_data_error(file, STREAM):
            numbers = arrow.validated(batch.column(0)).to_numpy(zero_copy_only=False)
        if numbers.dtype.kind not in "iu" or (
            len(numbers) and not 0 <= numbers.min() <= numbers.max() < self._starts[-1]
        ):
            raise DataError(f"{file} is damaged: it refers to rows that the dataset does not have")
        return numbers

    def __getstate__(self) -> dict[str, Any]:
        return {"files": self.files, "digest": self.digest, "_state": self._state}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._map()


class ParquetReader(RowReader):
    """Reader of Parquet files. The row groups that were read last stay in memory."""

    block_size = PARQUET_BLOCK_SIZE

    def __init__(self, files: Sequence[Path]) -> None:
        super().__init__(files)
        self._groups: list[tuple[Path, int]] = []
        self.features = {}
        counts = [0]
        for path in files:
            with _open_parquet(path) as file, arrow.as_data_error(path):
                self.names = file.schema_arrow.names
                self.features = self.features or _features(file.schema_arrow)
                for group in range(file.num_row_groups):
                    self._groups.append((path, group))
                    counts.append(int(file.metadata.row_group(group).num_rows))
        self._starts = np.cumsum(counts)
        self._reset_cache()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, number: int, columns: Sequence[str]) -> list[Any]:
        index = int(np.searchsorted(self._starts, number, side="right")) - 1
        with arrow.as_data_error(self._groups[index][0]):
            table = self._table(index, tuple(columns))
            return [table.column(column)[number - int(self._starts[index])].as_py() for column in columns]

    def rows(self, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        for path in self.files:
            with _open_parquet(path) as file, arrow.as_data_error(path):
                for batch in file.iter_batches(columns=list(columns)):
                    values = [arrow.column_values(batch.column(column)) for column in columns]
                    yield from zip(*values, strict=True)

    def _table(self, index: int, columns: tuple[str, ...]) -> Any:
        with self._lock:
            loading = self._loading.setdefault(index, threading.Lock())
        with loading:  # other threads that need this row group wait instead of reading it too
            with self._lock:
                found = self._tables.get((index, columns))
            if found is None:
                path, group = self._groups[index]
                with _open_parquet(path) as file:
                    found = arrow.validated(
                        file.read_row_group(group, columns=list(columns), use_threads=False)
                    )
                with self._lock:
                    self._tables[index, columns] = found
                    while len(self._tables) > _CACHED_ROW_GROUPS:
                        self._tables.popitem(last=False)
        return found

    def _reset_cache(self) -> None:
        self._tables: OrderedDict[tuple[int, tuple[str, ...]], Any] = OrderedDict()
        self._loading: dict[int, threading.Lock] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {
            key: value for key, value in vars(self).items() if key not in ("_tables", "_loading", "_lock")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._reset_cache()


def is_dataset(folder: Path) -> bool:
    """Return whether `open_rows` can read a folder."""
    marks = ("state.json", "dataset_dict.json", "dataset_info.json")
    return (
        any((folder / mark).is_file() for mark in marks) or next(folder.rglob("*.parquet"), None) is not None
    )


def has_image_column(path: Path, column: str | None = None) -> bool:
    """Return whether a Parquet file contains images as bytes rather than as paths, in `column` or in a usual column."""
    with _open_parquet(path) as file:
        types = {field.name: str(field.type) for field in file.schema_arrow}
    wanted = [column] if column is not None else IMAGE_COLUMNS
    return any(types.get(name, "").startswith(("struct", "binary", "large_binary")) for name in wanted)


def split_names(folder: Path) -> list[str]:
    """Return the names of the splits of a dataset; empty if it has no splits."""
    if (folder / "dataset_dict.json").is_file():
        return _names(folder / "dataset_dict.json", _json(folder / "dataset_dict.json").get("splits", []))
    if (folder / "state.json").is_file():
        return []
    return sorted({_split_of(file, folder) for file in folder.rglob("*.parquet")} - {""})


def open_rows(place: Path, split: str | None = None) -> RowReader:
    """Open the rows of a dataset.

    Args:
        place: a folder of `save_to_disk`, a folder with Parquet files (at any depth), or one Parquet file.
        split: one of several splits; "train" by default. Required if there are several and none is called "train".

    Raises:
        DataError: if the dataset, the split or a file is missing.
        MissingExtraError: without pyarrow.
    """
    if place.is_file():
        return ParquetReader([place])
    if not place.is_dir():
        raise DataError(
            f"{place}: no such folder; expected a dataset written by `save_to_disk`, or Parquet files"
        )
    if (place / "dataset_dict.json").is_file():
        return open_rows(place / _split(place, split, split_names(place)))
    if (place / "state.json").is_file():
        state = _json(place / "state.json")
        files, indices = (
            [place / name for name in _names(place / "state.json", state.get(key) or [], "filename")]
            for key in ("_data_files", "_indices_data_files")
        )
        missing = [file.name for file in [*files, *indices] if not file.is_file()]
        if missing or not files:
            raise DataError(
                f"{place} lacks files that its state.json lists: {', '.join(missing) or 'the list is empty'}"
            )
        return ArrowReader(files, indices)
    files = sorted(place.rglob("*.parquet"))
    if not files:
        raise DataError(
            f"{place} is not a dataset: it contains neither a state.json (from `save_to_disk`) nor Parquet files"
        )
    splits = split_names(place)
    if splits:
        chosen = _split(place, split, splits)
        files = [file for file in files if _split_of(file, place) == chosen]
    return ParquetReader(files)


def _split_of(file: Path, folder: Path) -> str:
    """Return the split of a Parquet file, from its name (`train-00000-of-00002.parquet`) or its folder."""
    name, is_numbered, _ = file.stem.partition("-")
    if is_numbered:
        return name
    return file.parent.name if file.parent != folder and file.parent.name != "data" else ""


def _split(place: Path, split: str | None, splits: Sequence[str]) -> str:
    chosen = split or ("train" if "train" in splits or len(splits) != 1 else splits[0])
    if chosen not in splits:
        raise DataError(
            f"{place} has no split {chosen!r}; available: {', '.join(splits) or 'none'} (split=...)"
        )
    return chosen


def choose_column(
    name: str | None, usual: Sequence[str], names: Sequence[str], what: str, option: str
) -> str:
    """Return the name of a column if the rows have it; None chooses the first usual one.

    Raises:
        DataError: if there is no such column, with `what` it should contain and the `option` that names it.
    """
    has = f"it has {', '.join(map(repr, names)) or 'no columns'}"
    if name is not None and name not in names:
        near = nearest_names(name, names)
        hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        raise DataError(f"no column {name!r} for the {what}; {hint}{has}")
    found = name or next((one for one in usual if one in names), None)
    if found is None:
        raise DataError(f"cannot tell which column contains the {what}; set {option}=... ({has})")
    return found


def _features(schema: Any) -> dict[str, Any]:
    """Return the description of the columns that `datasets` writes into a schema; empty without one."""
    try:
        found = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (AttributeError, LookupError, TypeError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _tail(path: Path) -> bytes:
    """Read the last bytes of a file: column statistics in Parquet, rows in Arrow."""
    with path.open("rb") as file:
        file.seek(-min(_TAIL_BYTES, path.stat().st_size), os.SEEK_END)
        return file.read()


def _json(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except CheckpointError as error:
        raise DataError(str(error)) from error


def _names(path: Path, entries: Any, key: str | None = None) -> list[str]:
    """Check and return the names of neighbouring files or folders that a JSON file lists."""
    names = entries if isinstance(entries, list) else [entries]
    if key is not None:
        names = [entry.get(key) if isinstance(entry, dict) else entry for entry in names]
    for name in names:
        is_name = isinstance(name, str) and 0 < len(name) <= 255 and "\0" not in name
        if not is_name or Path(name).is_absolute() or ".." in Path(name).parts:
            raise DataError(
                f"{path} lists {str(name)[:80]!r}; expected the name of a file in the same folder"
            )
    return names


def _read_stream(path: Path) -> list[Any]:
    pyarrow = arrow.import_pyarrow(FEATURE)
    with arrow.as_data_error(path, STREAM), pyarrow.ipc.open_stream(pyarrow.memory_map(str(path))) as stream:
        return list(stream)


def _open_parquet(path: Path) -> Any:
    pyarrow = arrow.import_pyarrow(FEATURE)
    with arrow.as_data_error(path):
        return pyarrow.parquet.ParquetFile(path, memory_map=True)
