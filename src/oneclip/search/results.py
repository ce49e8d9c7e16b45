"""Results of a search, of an update, and of a check of an index."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, overload

from oneclip.embed.items import Failure
from oneclip.hub.file_types import UnsupportedFiles
from oneclip.search.image_facts import ImageFacts


@dataclass(frozen=True)
class Hit:
    """Image that a search found.

    Attributes:
        path: absolute path of the file, or its name in a dataset.
        score: cosine with the query; for several queries a weighted sum of standardized cosines.
        relevance: probability that the image shows the text of the query, see `oneclip.search.relevance`; None for a
            query without texts.
        width: in pixels, upright.
        height: in pixels, upright.
        format: of the file, such as "jpeg".
        taken_at: date and time of the photograph in ISO 8601, from EXIF; None if unknown.
        camera: maker and model; None if unknown.
        latitude: in degrees; None if unknown.
        longitude: in degrees; None if unknown.
        sha256: of the file, in hexadecimal digits.
        perceptual_hash: see `oneclip.search.image_facts`.
    """

    path: str
    score: float
    relevance: float | None
    width: int
    height: int
    format: str
    taken_at: str | None
    camera: str | None
    latitude: float | None
    longitude: float | None
    sha256: str
    perceptual_hash: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return what `oneclip search --json` prints."""
        return {
            "path": self.path,
            "score": round(self.score, 6),
            "relevance": None if self.relevance is None else round(self.relevance, 6),
            "width": self.width,
            "height": self.height,
            "taken_at": self.taken_at,
            "sha256": self.sha256,
            "camera": self.camera,
            "latitude": self.latitude,
            "longitude": self.longitude,
            "format": self.format,
        }


@dataclass
class SearchResults:
    """Hits of a search, best first, and what was left out.

    Attributes:
        hits: the images.
        index: location of the index.
        model: name of the model.
        hidden: number of hits among the best that were left out because their relevance is too low.
        repeated: number of hits that were left out because they look like a better one.
        searched: number of images that the filter left to search.
    """

    hits: list[Hit]
    index: str
    model: str
    hidden: int = 0
    repeated: int = 0
    searched: int = 0

    def __len__(self) -> int:
        return len(self.hits)

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    @overload
    def __getitem__(self, index: int) -> Hit: ...

    @overload
    def __getitem__(self, index: slice) -> list[Hit]: ...

    def __getitem__(self, index: int | slice) -> Hit | list[Hit]:
        return self.hits[index]

    def to_dict(self) -> dict[str, Any]:
        """Return what `oneclip search --json` prints."""
        return {
            "index": self.index,
            "model": self.model,
            "results": [hit.to_dict() for hit in self.hits],
            "hidden": self.hidden,
            "repeated": self.repeated,
            "searched": self.searched,
        }


@dataclass
class UpdateResult:
    """Changes that an update made to an index; counts of files.

    Attributes:
        added: new files.
        changed: files with new content.
        moved: files that were renamed or moved; nothing was computed for them.
        removed: files that no longer exist.
        failed: files without an embedding, with those that failed before and have not changed.
        unchanged: files that were not read, because their size and time are those of the last update.
        encoded: images that the model encoded; less than `added` if files are copies.
        failures: the first 20 failures of this update.
        unlisted: folders that could not be listed, and roots that are missing or empty; their files stay in the index.
        not_read: images and videos in formats that cannot be read here.
    """

    added: int = 0
    changed: int = 0
    moved: int = 0
    removed: int = 0
    failed: int = 0
    unchanged: int = 0
    encoded: int = 0
    failures: list[Failure] = field(default_factory=list)
    unlisted: list[Failure] = field(default_factory=list)
    not_read: UnsupportedFiles = field(default_factory=UnsupportedFiles)

    def __str__(self) -> str:
        counts = {
            "added": self.added,
            "changed": self.changed,
            "moved": self.moved,
            "removed": self.removed,
            "failed": self.failed,
            "unchanged": self.unchanged,
        }
        return ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "no images"


@dataclass(frozen=True)
class IndexStatus:
    """State of an index.

    Attributes:
        path: folder of the index.
        roots: indexed folders, and whether each can be reached now.
        model: name of the model.
        metadata: settings that made the embeddings.
        files: images with an embedding.
        contents: different images among them.
        failed: files without an embedding.
        dead_rows: stored embeddings whose files no longer exist.
        segments: files of embeddings.
        bytes: size of the index on disk.
        updated_at: time of the last complete update in ISO 8601, or None.
    """

    path: str
    roots: dict[str, bool]
    model: str
    metadata: dict[str, str]
    files: int
    contents: int
    failed: int
    dead_rows: int
    segments: int
    bytes: int
    updated_at: str | None


@dataclass
class VerifyResult:
    """Differences that `verify` found.

    Attributes:
        checked: number of files whose content was compared.
        changed: files whose content differs although their size and time are unchanged; they will be encoded again.
        missing: files that no longer exist.
        damaged: segments that are damaged; their images will be encoded again.
    """

    checked: int = 0
    changed: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Entry:
    """Image file of an index.

    Attributes:
        path: absolute path.
        size: in bytes; None if it was modified while it was indexed.
        mtime_ns: modification time in nanoseconds, or None likewise.
        content: id of its content: equal for equal files.
        sha256: of the file, in hexadecimal digits.
        facts: about the image.
    """

    path: str
    size: int | None
    mtime_ns: int | None
    content: int
    sha256: str
    facts: ImageFacts

    def hit(self, score: float, relevance: float | None) -> Hit:
        """Return the file as the result of a search."""
        return Hit(path=self.path, score=score, relevance=relevance, sha256=self.sha256, **vars(self.facts))
