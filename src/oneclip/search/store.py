"""Store of an index: receives the embeddings of an update and makes them visible in steps.

First a segment with the new embeddings is complete on disk, then one transaction of the catalogue makes its rows
visible. A kill between the two leaves a file that nobody refers to; the next update removes it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from oneclip.embed.items import Failure, FileStamp
from oneclip.embed.prefetch import UnreadableItem
from oneclip.embed.store import PART_SECONDS
from oneclip.errors import DataError
from oneclip.search.catalogue import Catalogue, FileRow, in_chunks
from oneclip.search.changes import installed_decoders
from oneclip.search.image_facts import COLUMNS, ImageFacts
from oneclip.search.segments import MAX_ROWS, Segment, write_segment

if TYPE_CHECKING:
    from oneclip.encoder import Features
    from oneclip.search.relevance import RelevanceModel

_INSERT_CONTENT = f"""
INSERT INTO contents (sha256, segment, row, {", ".join(COLUMNS)})
VALUES ({", ".join("?" * (3 + len(COLUMNS)))})
ON CONFLICT (sha256) DO UPDATE SET segment = excluded.segment, row = excluded.row
"""
_INSERT_FILE = """
INSERT INTO files (root, path, size, mtime_ns, content)
VALUES (?, ?, ?, ?, (SELECT id FROM contents WHERE sha256 = ?))
ON CONFLICT (root, path) DO UPDATE SET
    size = excluded.size, mtime_ns = excluded.mtime_ns, content = excluded.content, error = NULL, decoders = NULL
"""
# a file that could not be read keeps the embedding that it has
_INSERT_FAILURE = """
INSERT INTO files (root, path, size, mtime_ns, error, decoders) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (root, path) DO UPDATE SET
    size = excluded.size, mtime_ns = excluded.mtime_ns, content = NULL, error = excluded.error,
    decoders = excluded.decoders
WHERE ? OR files.content IS NULL
"""


class FailureList:
    """Failures of an update: their number and the first of them."""

    location = ""  # the catalogue has them all

    def __init__(self, remember: int = 20) -> None:
        self.first: list[Failure] = []
        self.count, self._remember = 0, remember

    def __enter__(self) -> FailureList:
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        pass

    def add(self, failure: Failure) -> None:
        """Count a failure."""
        self.count += 1
        if self.count <= self._remember:
            self.first.append(failure)


class IndexStore:
    """Receiver of embeddings for `oneclip.embed.run.embed`.

    Args:
        catalogue: of the index, open for writing.
        folder: of the segments.
        relevance: computes what is stored beside each embedding.
        files: the files to read: root, path relative to it, and what the catalogue knows, by absolute path.

    Attributes:
        facts: of decoded images by path; whoever decodes fills it.
        added: number of new files.
        changed: number of files with new content.
        kept: number of files whose content is unchanged.
        linked: contents of files that needed no computation, for counting moves.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        folder: Path,
        relevance: RelevanceModel,
        files: dict[str, tuple[int, bytes, FileRow | None]],
    ) -> None:
        self._catalogue, self._folder, self._relevance, self._files = catalogue, folder, relevance, files
        self.facts: dict[str, ImageFacts] = {}
        self.added = self.changed = self.kept = 0
        self.linked: list[str] = []
        self.dropped: dict[str, int] = {}
        self.unlisted = 0
        self._recorded = _recorded_contents(catalogue, files)
        # digests of the contents on disk: threads that ask SQLite for every file would wait for each other
        self._stored = {
            digest for (digest,) in catalogue.rows("SELECT sha256 FROM contents WHERE segment IS NOT NULL")
        }
        self._contents: dict[str, tuple[Features, ImageFacts]] = {}  # not yet on disk, by digest
        self._links: dict[str, tuple[str, FileStamp | None]] = {}  # digest and stamp by name
        self._failures: list[tuple[str, str, FileStamp | None, bool]] = []
        self._segments: dict[int, Segment | None] = {}
        self._lock = threading.Lock()
        self._since = time.monotonic()

    def error_table(self) -> FailureList:
        """Return the receiver of failures."""
        return FailureList()

    def has(self, name: str, digest: str) -> bool:
        """Return whether the file has this content in the catalogue, with an embedding that can be read."""
        return self._recorded.get(name) == digest and self._stored_vector(digest) is not None

    def is_unchanged(self, name: str, stamp: FileStamp) -> bool:
        """Return False: only files that changed are read at all."""
        return False

    def find(self, digest: str) -> Features | None:
        """Return the embedding (D,) of a content that any file has, or None. Thread-safe."""
        pending = self._contents.get(digest)
        return pending[0] if pending is not None else self._stored_vector(digest)

    def invalid_name_reason(self, name: str) -> str | None:
        """Return None: every name can be stored."""
        return None

    def keep(self, name: str, digest: str, stamp: FileStamp | None) -> bool:
        """Record the stamp of a file whose content is unchanged."""
        self.kept += 1
        self._links[name] = (digest, stamp)
        self._flush_if_due()
        return True

    def add(self, name: str, digest: str, vector: Features, stamp: FileStamp | None = None) -> None:
        """Add a file with the embedding (D,) of its content."""
        facts = self.facts.pop(name, None)
        if facts is None or digest in self._contents or digest in self._stored:
            self.linked.append(digest)  # what `find` returned is not decoded
        else:
            self._contents[digest] = (vector, facts)
        self._links[name] = (digest, stamp)
        before = self._files[name][2]
        if self._recorded.get(name) == digest:  # encoded again, because its segment was damaged
            self.kept += 1
        elif before is not None and before.content is not None:
            self.changed += 1
        else:
            self.added += 1
        self._flush_if_due()

    def record_failure(self, entry: UnreadableItem) -> None:
        """Record why a file has no embedding; it is tried again when it changes, or could not be read at all."""
        self.facts.pop(entry.item.name, None)
        is_content = entry.digest is not None
        self._failures.append(
            (entry.item.name, entry.reason, entry.stamp if is_content else None, is_content)
        )

    def flush(self) -> None:
        """Make everything so far visible.

        Raises:
            OutputError: if it cannot be written; the index is as before.
        """
        if not (self._links or self._failures):
            return
        name = ""
        if self._contents:
            vectors = np.stack([vector for vector, _ in self._contents.values()]).astype(np.float32)
            name = write_segment(self._folder, vectors, self._relevance.log_normalizers(vectors))
        decoders = installed_decoders()
        with self._catalogue.transaction():
            if name:
                segment = self._catalogue.insert(
                    "INSERT INTO segments (name, rows) VALUES (?, ?)", (name, len(self._contents))
                )
                self._catalogue.write(
                    _INSERT_CONTENT,
                    (
                        (digest, segment, row, *vars(facts).values())
                        for row, (digest, (_, facts)) in enumerate(self._contents.items())
                    ),
                )
            self._catalogue.write(
                _INSERT_FILE,
                (
                    (*self._files[path][:2], *(stamp or (None, None)), digest)
                    for path, (digest, stamp) in self._links.items()
                ),
            )
            self._catalogue.write(
                _INSERT_FAILURE,
                (
                    (*self._files[path][:2], *(stamp or (None, None)), reason, decoders, is_content)
                    for path, reason, stamp, is_content in self._failures
                ),
            )
        self._stored.update(self._contents)  # first, so that `find` sees each content in one of them
        self._contents = {}
        self._links, self._failures = {}, []
        self._since = time.monotonic()

    def finish(self, names: list[str], unlisted: Sequence[Failure] = ()) -> int:
        """Make the rest visible; return the number of files that were read."""
        self.flush()
        return len(names)

    def close(self) -> None:
        """Unmap the segments."""
        for segment in self._segments.values():
            if segment is not None:
                segment.close()
        self._segments = {}

    def _flush_if_due(self) -> None:
        if len(self._contents) >= MAX_ROWS or time.monotonic() - self._since > PART_SECONDS:
            self.flush()

    def _stored_vector(self, digest: str) -> Features | None:
        """Return the embedding of a content on disk; None if there is none, or its segment is damaged."""
        if digest not in self._stored:
            return None
        _, number, row = self._catalogue.content_of(digest) or (0, None, None)
        if number is None or row is None:
            return None
        with self._lock:
            if number not in self._segments:
                try:
                    self._segments[number] = Segment.open(
                        self._folder / self._catalogue.segment_names()[number]
                    )
                except DataError:
                    self._segments[number] = None
            segment = self._segments[number]
            if segment is not None:
                vector: Features = segment.vectors(np.array([row]))[0]
                return vector
        self._stored.discard(digest)  # so that it is encoded again
        return None


def _recorded_contents(
    catalogue: Catalogue, files: dict[str, tuple[int, bytes, FileRow | None]]
) -> dict[str, str]:
    """Return the SHA-256 of the recorded content of each file that has one, by absolute path."""
    ids = {path: row.content for path, (_, _, row) in files.items() if row is not None and row.content}
    digests = sha256_of_contents(catalogue, set(ids.values()))
    return {path: digests[content] for path, content in ids.items() if content in digests}


def sha256_of_contents(catalogue: Catalogue, contents: Iterable[int]) -> dict[int, str]:
    """Return the SHA-256 of contents by id."""
    found: dict[int, str] = {}
    for marks, values in in_chunks(sorted(contents)):
        found.update(catalogue.rows(f"SELECT id, sha256 FROM contents WHERE id IN ({marks})", values))
    return found
