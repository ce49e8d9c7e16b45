"""Cache of embeddings by content hash, shared by all outputs: `--cache FOLDER`.

There is one SQLite file for each combination of weights, settings, precision and decode mode. An embedding is found
whatever the name or place of the image, and never mixed with those of another model. Several processes may use the
cache at once.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from oneclip.embed.rows import EmbeddingMetadata
from oneclip.errors import OutputError

if TYPE_CHECKING:
    from oneclip.encoder import Features

LOCK_TIMEOUT = 30.0  # seconds to wait for another process


class EmbeddingCache:
    """Cached embeddings of one model and its settings. A context manager; thread-safe.

    Args:
        folder: of the cache; created if necessary.
        metadata: what makes the embeddings.
        dim: D, their number of dimensions; damaged ones are not found, and so are computed again.
        remedy: how to do without the cache, for errors.

    Raises:
        OutputError: if the cache cannot be written or is damaged.
    """

    def __init__(
        self, folder: Path, metadata: EmbeddingMetadata, dim: int, *, remedy: str = "run without --cache"
    ) -> None:
        self._dim, self._remedy = dim, remedy
        self.path = (
            folder / f"{metadata.kind}-{metadata.precision}-{metadata.decode}-{metadata.identity}.sqlite"
        )
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror or str(error)
            raise OutputError(
                f"the folder {folder} of the cache cannot be made: {reason}. Choose another folder, or {remedy}"
            ) from error
        try:
            self._base = sqlite3.connect(self.path, LOCK_TIMEOUT, check_same_thread=False)
            with self._base:
                self._base.execute(
                    "CREATE TABLE IF NOT EXISTS vectors (sha256 BLOB PRIMARY KEY, vector BLOB NOT NULL) WITHOUT ROWID"
                )
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def __enter__(self) -> EmbeddingCache:
        return self

    def __exit__(self, *error: object) -> None:
        self._base.close()

    def find(self, digest: str) -> Features | None:
        """Return the embedding (D,) of content with this SHA-256; None if there is none, or a damaged one."""
        try:
            with self._lock:
                found = self._base.execute(
                    "SELECT vector FROM vectors WHERE sha256 = ?", (bytes.fromhex(digest),)
                )
                row = found.fetchone()
        except sqlite3.Error as error:
            raise self._unusable(error) from error
        if row is None or not isinstance(row[0], bytes) or len(row[0]) != 4 * self._dim:
            return None
        vector = np.frombuffer(row[0], "<f4").astype(np.float32)
        return vector if np.isfinite(vector).all() else None

    def add(self, vectors: Mapping[str, Features]) -> None:
        """Store embeddings (D,) by their digests."""
        rows = [(bytes.fromhex(digest), vector.astype("<f4").tobytes()) for digest, vector in vectors.items()]
        try:
            with self._lock, self._base:
                self._base.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", rows)
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> OutputError:
        # the subclass means a lock, a full disk or missing rights, not a damaged file
        is_damaged = not isinstance(error, sqlite3.OperationalError)
        advice = "Delete that file" if is_damaged else "Choose another folder"
        return OutputError(f"the cache {self.path} cannot be used: {error}. {advice}, or {self._remedy}")
