"""Catalogue of an index: which files exist, what they contain, and where their embeddings are. SQLite in WAL mode.

Embeddings belong to contents, not to paths: copies and renamed files share one. Paths are stored relative to their
root, as bytes, because file names need not be valid UTF-8.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from oneclip.errors import ConfigError, DataError, OutputError
from oneclip.search.image_facts import COLUMNS
from oneclip.search.where import register_functions

VERSION = 1  # of the schema; an index of a newer version is refused
FILE = "catalogue.sqlite"
CHUNK = 500  # values in one `IN (…)`; older SQLite allows 999

_SCHEMA = f"""
CREATE TABLE info (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE roots (id INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE, exclude TEXT NOT NULL DEFAULT '[]');
CREATE TABLE segments (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, rows INTEGER NOT NULL);
CREATE TABLE contents (
    id INTEGER PRIMARY KEY, sha256 TEXT NOT NULL UNIQUE, segment INTEGER, row INTEGER, {", ".join(COLUMNS)}
);
CREATE TABLE files (
    id INTEGER PRIMARY KEY, root INTEGER NOT NULL, path BLOB NOT NULL, size INTEGER, mtime_ns INTEGER,
    content INTEGER, error TEXT, decoders TEXT, UNIQUE (root, path)
);
CREATE INDEX files_by_content ON files (content);
PRAGMA user_version = {VERSION};
"""


class FileRow(NamedTuple):
    """File of a root, as the catalogue knows it.

    Attributes:
        size: in bytes; None if its stamp cannot be trusted.
        mtime_ns: modification time in nanoseconds; None if its stamp cannot be trusted.
        content: id of its content; None if it has no embedding.
        decoders: the optional decoders that were installed when it failed; None if it did not fail.
    """

    size: int | None
    mtime_ns: int | None
    content: int | None
    decoders: str | None


class Catalogue:
    """Connection to the catalogue of an index. Safe to use from several threads.

    Args:
        folder: of the index.
        create: whether to create a missing catalogue.

    Raises:
        DataError: if there is no catalogue, it is damaged, or a newer version of oneclip wrote it.
        OutputError: if it cannot be created.
    """

    def __init__(self, folder: Path, *, create: bool = False) -> None:
        self.folder, self.path = folder, folder / FILE
        self.is_read_only = self._is_closed = False
        self._lock = threading.RLock()
        self._process = os.getpid()
        is_new = not self.path.exists()
        if is_new and not create:
            raise DataError(f"{folder} is not an index: it has no {FILE}; `oneclip index ROOT` makes one")
        try:
            self._connection = self._connect()
            with self._errors():
                version = int(self._connection.execute("PRAGMA user_version").fetchone()[0])
                if version == 0 and create:
                    self._create()
                elif version != VERSION:
                    self._refuse_version(version)
        except OutputError:
            raise
        except OSError as error:
            raise OutputError(f"{folder} cannot be written: {error.strerror or error}") from error

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._is_closed = True
            self._connection.close()

    # ------------------------------------------------------------------------------------------ reading and writing

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make the changes of a block visible at once, or not at all.

        Raises:
            OutputError: if they cannot be written, for example because the disk is full.
        """
        with self._own_connection(), self._errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Let all queries of a block see the same state, whatever others write meanwhile."""
        with self._own_connection(), self._errors():
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                self._connection.execute("COMMIT")

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        """Return all rows of a query."""
        with self._own_connection(), self._errors():
            return self._connection.execute(query, values).fetchall()

    def write(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        """Execute a statement once for each row of values, inside a `transaction`."""
        self._connection.executemany(statement, rows)

    def insert(self, statement: str, values: Sequence[Any]) -> int:
        """Execute one insertion inside a `transaction`; return the id of the new row."""
        return int(self._connection.execute(statement, values).lastrowid or 0)

    def generation(self) -> tuple[int, ...]:
        """Return a value that differs after every change, by whatever process."""
        ((version,),) = self.rows("PRAGMA data_version")
        return self._process, int(version), self._connection.total_changes

    # ------------------------------------------------------------------------------------------------------- contents

    def info(self, key: str) -> Any:
        """Return a value of the index, or None."""
        found = self.rows("SELECT value FROM info WHERE key = ?", (key,))
        return json.loads(found[0][0]) if found else None

    def set_info(self, values: dict[str, Any]) -> None:
        """Set values of the index, inside a `transaction`."""
        self.write(
            "INSERT OR REPLACE INTO info VALUES (?, ?)",
            [(key, json.dumps(value)) for key, value in values.items()],
        )

    def roots(self) -> dict[str, int]:
        """Return the id of each root by its path."""
        return {os.fsdecode(path): root for root, path in self.rows("SELECT id, path FROM roots ORDER BY id")}

    def files(self, root: int, under: str = "") -> dict[bytes, FileRow]:
        """Return the files of a root by relative path; only those in the folder `under`, if it is not empty."""
        condition, values = under_condition(under)
        found = self.rows(
            f"SELECT path, size, mtime_ns, content, decoders FROM files AS f WHERE root = ? AND {condition}",
            (root, *values),
        )
        return {path: FileRow(*rest) for path, *rest in found}

    def content_of(self, sha256: str) -> tuple[int, int | None, int | None] | None:
        """Return id, segment and row of a content, or None."""
        found = self.rows("SELECT id, segment, row FROM contents WHERE sha256 = ?", (sha256,))
        return found[0] if found else None

    def segment_names(self) -> dict[int, str]:
        """Return the file name of each segment by its id, oldest first."""
        return dict(self.rows("SELECT id, name FROM segments ORDER BY id"))

    def stored_rows(self) -> list[tuple[int, int, int]]:
        """Return content, segment and row of every embedding that belongs to a file."""
        return self.rows(
            "SELECT id, segment, row FROM contents WHERE segment IS NOT NULL "
            "AND EXISTS (SELECT 1 FROM files WHERE content = contents.id)"
        )

    def is_whole(self) -> bool:
        """Return whether SQLite finds no damage in its file."""
        try:
            return self.rows("PRAGMA quick_check") == [("ok",)]
        except DataError:
            return False

    # ------------------------------------------------------------------------------------------------------- internals

    def _connect(self) -> sqlite3.Connection:
        """Connect for writing, else for reading, else to a catalogue on a medium that nobody can change."""
        reason: Exception | None = None
        uri = self.path.absolute().as_uri()
        for address in (f"{uri}?mode=rwc", f"{uri}?mode=ro", f"{uri}?mode=ro&immutable=1"):
            try:
                connection = sqlite3.connect(
                    address, uri=True, isolation_level=None, check_same_thread=False, timeout=60
                )
                connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
                if address.endswith("rwc"):
                    connection.execute("PRAGMA journal_mode = WAL").fetchone()
                    connection.execute("PRAGMA synchronous = FULL").fetchone()
                self.is_read_only = not address.endswith("rwc") or not os.access(self.folder, os.W_OK)
                register_functions(connection)
                return connection
            except sqlite3.OperationalError as error:
                reason = error
            except sqlite3.DatabaseError as error:
                raise DataError(f"{self.path} is damaged: {error}{_RECOVERY}") from error
        raise DataError(f"{self.path} cannot be opened: {reason}")

    def _create(self) -> None:
        """Create the tables, unless another process has just done so."""
        self._connection.execute("BEGIN IMMEDIATE")
        if not self._connection.execute("PRAGMA user_version").fetchone()[0]:
            for statement in _SCHEMA.split(";"):
                self._connection.execute(statement)
        self._connection.execute("COMMIT")

    def _refuse_version(self, version: int) -> None:
        if version > VERSION:
            raise DataError(
                f"{self.folder} is an index of version {version}, written by a newer oneclip; this one reads "
                f"version {VERSION}. Upgrade oneclip, or make another index with --index"
            )
        if version == 0:
            raise DataError(f"{self.path} is empty: `oneclip index ROOT` was interrupted; run it again")
        raise DataError(f"{self.path} is damaged: its version is {version}{_RECOVERY}")

    @contextmanager
    def _own_connection(self) -> Iterator[None]:
        """Exclude other threads; a forked process connects anew, because it inherits no locks."""
        if self._process != os.getpid() and not self._is_closed:
            self._lock = threading.RLock()
            self._connection.close()  # else SQLite takes the parent's locks on this file for those of this process
            self._connection, self._process = self._connect(), os.getpid()
        with self._lock:
            yield

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn errors of SQLite into our own."""
        if self._is_closed:
            raise ConfigError(
                f"the index {self.folder} is closed; open it again: oneclip.Index({str(self.folder)!r})"
            )
        try:
            yield
        except sqlite3.OperationalError as error:
            raise OutputError(f"{self.path} cannot be used: {error}. Nothing was changed") from error
        except sqlite3.DatabaseError as error:
            raise DataError(f"{self.path} is damaged: {error}{_RECOVERY}") from error


_RECOVERY = "; delete the folder of the index and run `oneclip index ROOT` to make it again"


def under_condition(under: str) -> tuple[str, list[bytes]]:
    """Return a condition on `f.path`, and its values, for the files in a folder of a root; "" is the whole root."""
    if not under:
        return "1", []
    prefix = os.fsencode(under.rstrip(os.sep) + os.sep)
    return "f.path >= ? AND f.path < ?", [prefix, prefix[:-1] + bytes([prefix[-1] + 1])]


def in_chunks(values: Sequence[int]) -> Iterator[tuple[str, list[int]]]:
    """Split ids for queries: yield `?, ?, …` and the values."""
    for start in range(0, len(values), CHUNK):
        chunk = list(values[start : start + CHUNK])
        yield ", ".join("?" * len(chunk)), chunk
