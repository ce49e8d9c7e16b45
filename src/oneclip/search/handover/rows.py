"""Rows of an index that are handed over to another engine, and what has changed since the last export.

Every export is repeatable: it writes what is new or has changed, and removes the rows of files that are no longer in
the index. Rows of other files, such as those that `oneclip embed` added, stay.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from oneclip.embed.formats.parquet import ParquetFormat
from oneclip.embed.rows import EmbeddingMetadata
from oneclip.errors import DataError
from oneclip.search.filter_values import plain_text
from oneclip.search.results import Entry

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from oneclip.search.index import Index
    from oneclip.search.snapshot import Snapshot

BATCH_BYTES = 1 << 26  # bytes of the embeddings that are in memory at once
UNKNOWN = -1  # size or time of a file that was modified while it was indexed


@dataclass
class ExportResult:
    """Outcome of an export; counts of rows.

    Attributes:
        location: of the target.
        rows: in the target now.
        added: new ones.
        changed: replaced ones.
        removed: of files that are no longer in the index.
        unchanged: of this index, not written again.
        skipped: paths of images that cannot be exported because they are not valid Unicode.
        vector_index: kind of the approximate index; None if the search is exact.
        image_recall: share of the 10 nearest images of an image that an approximate search finds; None if not measured.
        text_recall: the same for texts.
    """

    location: str
    rows: int = 0
    added: int = 0
    changed: int = 0
    removed: int = 0
    unchanged: int = 0
    skipped: list[str] = field(default_factory=list)
    vector_index: str | None = None
    image_recall: float | None = None
    text_recall: float | None = None

    def __str__(self) -> str:
        counts = {
            "added": self.added,
            "changed": self.changed,
            "removed": self.removed,
            "unchanged": self.unchanged,
            "skipped": len(self.skipped),
        }
        return ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "no images"


@dataclass(frozen=True)
class ExportBatch:
    """M rows of an index.

    Attributes:
        entries: the files.
        vectors: (M, D) float32 embeddings of unit length.
        log_normalizers: (M,) float32, see `oneclip.search.relevance`.
    """

    entries: list[Entry]
    vectors: NDArray[np.float32]
    log_normalizers: NDArray[np.float32]


@dataclass(frozen=True)
class Changes:
    """Differences between an index and a target.

    Attributes:
        added: files without a row.
        changed: files whose row is of another content.
        removed: names of the rows of files that are no longer in the index.
    """

    added: list[Entry]
    changed: list[Entry]
    removed: list[str]


class IndexExport:
    """State of an index that is exported, whatever others write to it meanwhile.

    Args:
        index: to export.

    Raises:
        DataError: if it has no images.
    """

    def __init__(self, index: Index) -> None:
        metadata = index.metadata
        snapshot = index.snapshot()
        if metadata is None or not snapshot.is_live.any():
            raise DataError(f"{index.path} has no images; add a folder of images: oneclip index ROOT")
        self.metadata: EmbeddingMetadata = metadata
        self.snapshot: Snapshot = snapshot
        self.model = str(index.catalogue.info("model") or metadata.model)  # absolute, if it is a path
        self.roots = sorted(index.catalogue.roots(), key=len, reverse=True)
        entries = index.entries()
        contents = np.array([entry.content for entry in entries], np.int64)
        stored = np.isin(contents, snapshot.contents[snapshot.is_live]).tolist()
        self.skipped = [entry.path for entry in entries if not _is_unicode(entry.path)]
        self.entries = [
            entry for entry, known in zip(entries, stored, strict=True) if known and _is_unicode(entry.path)
        ]

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        dim: int = self.snapshot.scan.segments[0].dim
        return dim

    def compare(self, existing: Iterable[tuple[str, str, int | None, int | None]]) -> Changes:
        """Compare with the rows of a target.

        Args:
            existing: name, SHA-256, size and modification time of each row; an empty SHA-256 if it must be replaced.
        """
        known = {name: hash(_stamp(*stamp)) for name, *stamp in existing}  # type: ignore[arg-type]
        added, changed = [], []
        for entry in self.entries:
            found = known.pop(entry.path, None)
            if found is None:
                added.append(entry)
            elif found != hash(_stamp(entry.sha256, entry.size, entry.mtime_ns)):
                changed.append(entry)
        return Changes(added, changed, [name for name in known if self._root(name) is not None])

    def batches(self, entries: Sequence[Entry], rows: int | None = None) -> Iterator[ExportBatch]:
        """Yield files with their embeddings.

        Args:
            entries: some of `self.entries`.
            rows: of a batch; by default as many as have `BATCH_BYTES`.
        """
        step = rows or max(1, BATCH_BYTES // (4 * self.dim))
        for start in range(0, len(entries), step):
            some = list(entries[start : start + step])
            places = self.snapshot.rows_of(np.array([entry.content for entry in some], np.int64))
            scan = self.snapshot.scan
            yield ExportBatch(some, scan.vectors(places), scan.log_normalizers(places))

    def facts(self, entry: Entry) -> dict[str, Any]:
        """Return the columns that describe an image: `path` relative to its root, and the fields of `ImageFacts`."""
        root = self._root(entry.path) or ""
        path = plain_text(os.path.relpath(entry.path, root) if root else entry.path)
        return {"path": path.replace(os.sep, "/"), **asdict(entry.facts)}

    def _root(self, path: str) -> str | None:
        return next((root for root in self.roots if path.startswith(root.rstrip(os.sep) + os.sep)), None)


def unknown_as_number(value: int | None) -> int:
    """Return a size or time as `oneclip embed` stores it."""
    return UNKNOWN if value is None else value


def _stamp(sha256: str, size: int | None, mtime_ns: int | None) -> tuple[str, int, int]:
    return sha256, unknown_as_number(size), unknown_as_number(mtime_ns)


def _is_unicode(path: str) -> bool:
    return ParquetFormat().invalid_name_reason(path) is None
