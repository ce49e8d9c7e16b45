"""Read and write rows as a Lance dataset: columns `name`, `sha256` and `vector`, and settings in the schema.

Each part is a commit: a new version of the dataset, which readers see whole or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from oneclip.embed.formats.parquet import STAMP_COLUMNS, digests_of, facts_of, to_table
from oneclip.embed.items import Stamp
from oneclip.embed.rows import Facts, Rows
from oneclip.errors import BrokenExtraError, DataError, MissingExtraError, OutputError

if TYPE_CHECKING:
    from oneclip.encoder import Features

SUFFIX = ".lance"
_AT_ONCE = 1000  # names in one condition
_WHERE_IN_RUST = re.compile(r",?\s+(location: )?\S+\.rs:\d+(:\d+)?")


class LanceRows:
    """The rows of a dataset, by name.

    Args:
        path: of the dataset; it is made with the first part.
        facts: what makes the vectors of this run.
        overwrite: begin anew with the first part; until then what is there stays.

    Attributes:
        damaged: nothing: a version is whole or not there.

    Raises:
        OutputError: if what is there was made by something else.
    """

    def __init__(self, path: Path, facts: Facts, *, overwrite: bool = False) -> None:
        self._path, self._facts, self._begin = path, facts, overwrite
        self.damaged: list[str] = []
        self._digests: dict[str, str] = {}
        self._stamps: dict[str, Stamp] = {}
        self._by_content: dict[str, int] = {}  # digest to its place in the version that was there at first
        self._first: Any = None  # that version
        self._has_stamps = True  # datasets of before there were stamps stay as they are
        self._dropped: set[str] = set()  # rows that are there and must not be
        if overwrite or not is_dataset(path):
            self._begin = True
            return
        try:
            facts.check_same(_facts(path), path)
            self._read()
        except DataError as error:
            raise OutputError(f"{error}. Name another output, or --overwrite to replace it") from error

    def __len__(self) -> int:
        return len(self._digests)

    def digest(self, name: str) -> str | None:
        """The hash of the content that the row of this name was made of; None if there is no such row."""
        return self._digests.get(name)

    def digests(self) -> Iterator[tuple[str, str]]:
        """Names and hashes of all rows."""
        return iter(self._digests.items())

    def stamp(self, name: str) -> Stamp | None:
        """Size and time of the file that the row of this name was made of."""
        return self._stamps.get(name)

    def restamp(self, name: str, stamp: Stamp) -> None:
        """Nothing: rows of a dataset are not written again because of a file's time."""

    def vector(self, digest: str) -> Features | None:
        """The vector (D,) of content with this hash that was there at first, whatever it is called."""
        if digest not in self._by_content:
            return None
        with self._failing("read"):
            found = self._first.take([self._by_content[digest]], columns=["vector"])["vector"]
        return np.array(found.to_pylist()[0], np.float32)

    def write(self, rows: Rows) -> None:
        """Commit rows; those of the same names are replaced.

        Raises:
            OutputError: if that is not possible; the dataset stays as it is.
        """
        lance = _lance()
        table = to_table(rows, self._facts)
        if not self._has_stamps and not self._begin:
            table = table.drop_columns(list(STAMP_COLUMNS))
        with self._failing():
            if self._begin:
                mode = "overwrite" if is_dataset(self._path) else "create"
                lance.write_dataset(table, str(self._path), mode=mode)
            elif self._digests.keys().isdisjoint(rows.names) and self._dropped.isdisjoint(rows.names):
                lance.write_dataset(table, str(self._path), mode="append")
            else:
                merge = lance.dataset(str(self._path)).merge_insert("name")
                merge.when_matched_update_all().when_not_matched_insert_all().execute(table)
        self._begin = False
        self._digests.update(zip(rows.names, rows.digests, strict=True))
        self._stamps.update(
            (name, s) for name, s in zip(rows.names, rows.stamps, strict=True) if s is not None
        )
        self._dropped.difference_update(rows.names)

    def drop(self, name: str) -> None:
        """Forget the row of an item whose content is now another and cannot be encoded."""
        del self._digests[name]
        self._stamps.pop(name, None)
        self._dropped.add(name)

    def tidy(self) -> None:
        """Take the rows that were dropped out of the dataset."""
        names = sorted(self._dropped)
        for start in range(0, len(names), _AT_ONCE):
            quoted = ", ".join(
                "'" + name.replace("'", "''") + "'" for name in names[start : start + _AT_ONCE]
            )
            with self._failing():
                _lance().dataset(str(self._path)).delete(f"name IN ({quoted})")
        self._dropped.clear()

    def _read(self) -> None:
        """Names, digests and stamps of all rows."""
        lance = _lance()
        try:
            self._first = lance.dataset(str(self._path))
            self._has_stamps = set(STAMP_COLUMNS) <= set(self._first.schema.names)
            columns = ["name", "sha256", *(STAMP_COLUMNS if self._has_stamps else ())]
            for batch in self._first.to_batches(columns=columns):
                for name, digest, stamp in zip(*digests_of(batch), strict=True):
                    self._by_content[digest] = len(self._digests)
                    self._digests[name] = digest
                    if stamp is not None:
                        self._stamps[name] = stamp
        except Exception as error:
            raise DataError(f"{self._path} is damaged: {_told(error)}") from error

    @contextmanager
    def _failing(self, what: str = "written") -> Iterator[None]:
        """What Lance raises, made one error."""
        try:
            yield
        except Exception as error:  # a Rust library: OSError, ValueError, RuntimeError, and a panic's own
            raise OutputError(
                f"{self._path} could not be {what}: {_told(error)}. Nothing that was there is lost"
            ) from error


def check_lance(path: Path, *, overwrite: bool) -> None:
    """Find out before the work that a dataset cannot be written there.

    Raises:
        MissingExtraError: if Lance is not installed.
        OutputError: for what is no dataset of ours.
    """
    if find_spec("lance") is None:
        raise MissingExtraError("Writing Lance", "lance")
    if path.exists() and not path.is_dir():
        raise OutputError(f"{path} is a file, and a Lance dataset is a folder; name another output")
    if is_dataset(path):
        if not overwrite:
            try:
                _facts(path)
            except DataError as error:
                raise OutputError(f"{error}. Name another output, or --overwrite to replace it") from error
    elif path.is_dir() and any(
        not entry.name.startswith((".", "_")) and entry.name != "data" for entry in path.iterdir()
    ):
        raise OutputError(f"{path} is a folder that is no Lance dataset; name one that is empty or not there")


def is_dataset(path: Path) -> bool:
    """Whether a first version was ever committed there."""
    return any((path / "_versions").glob("*.manifest"))


def _facts(path: Path) -> Facts:
    try:
        return facts_of(_lance().dataset(str(path)).schema)
    except MissingExtraError:
        raise
    except Exception as error:
        raise DataError(
            f"{path} holds no vectors of `oneclip embed`, or is damaged: {_told(error)}"
        ) from error


def _told(error: Exception) -> str:
    return _WHERE_IN_RUST.sub("", str(error)).strip(" ,") or type(error).__name__


def _lance() -> Any:
    if find_spec("lance") is None:
        raise MissingExtraError("Writing Lance", "lance")
    try:
        import lance
    except ImportError as error:
        raise BrokenExtraError("Writing Lance", "pylance", str(error)) from error
    return lance
