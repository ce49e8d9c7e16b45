"""Vectors by the hash of the content they were made of, kept across outputs: `--cache FOLDER`.

One SQLite file for each making (weights, settings, precision, decode mode): a vector is found again whatever the
picture is called and wherever it lies, and never one of another model. Several processes may use it at once.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from oneclip.embed.rows import Facts
from oneclip.errors import OutputError

if TYPE_CHECKING:
    from oneclip.encoder import Features

BUSY = 30.0  # seconds to wait for another process


class Cache:
    """What is kept of one making. A context; may be asked from many threads.

    Args:
        folder: where caches lie; made if it is not there.
        facts: what makes the vectors.

    Raises:
        OutputError: if it cannot be written, or is damaged.
    """

    def __init__(self, folder: Path, facts: Facts) -> None:
        self.path = folder / f"{facts.kind}-{facts.precision}-{facts.decode}-{facts.identity}.sqlite"
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(self.path, BUSY, check_same_thread=False)
            with self._base:
                self._base.execute(
                    "CREATE TABLE IF NOT EXISTS vectors (sha256 BLOB PRIMARY KEY, vector BLOB NOT NULL) WITHOUT ROWID"
                )
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from error

    def __enter__(self) -> Cache:
        return self

    def __exit__(self, *error: object) -> None:
        self._base.close()

    def find(self, digest: str) -> Features | None:
        """The vector (D,) of content with this SHA-256."""
        try:
            with self._lock:
                found = self._base.execute(
                    "SELECT vector FROM vectors WHERE sha256 = ?", (bytes.fromhex(digest),)
                )
                row = found.fetchone()
        except sqlite3.Error as error:
            raise self._unusable(error) from error
        return None if row is None else np.frombuffer(row[0], "<f4").astype(np.float32)

    def add(self, vectors: Mapping[str, Features]) -> None:
        """Keep vectors (D,) by their digests."""
        rows = [(bytes.fromhex(digest), vector.astype("<f4").tobytes()) for digest, vector in vectors.items()]
        try:
            with self._lock, self._base:
                self._base.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", rows)
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> OutputError:
        return OutputError(
            f"the cache {self.path} cannot be used: {error}. Go on without --cache, or delete that file"
        )
