"""Groups of equal and similar image files, the best copy first. Nothing is ever deleted.

Three kinds: files with equal bytes; equal pixels in another size, format or compression, which is checked by decoding
both; and near ones, see `oneclip.search.near_groups`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from oneclip.errors import ConfigError
from oneclip.hub.cache import sha256_of
from oneclip.search.near_groups import NEAR, find_leaders
from oneclip.search.near_groups import looks_alike as looks_alike
from oneclip.search.results import Entry

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from oneclip.search.index import Index
    from oneclip.search.snapshot import Snapshot

Kind = Literal["bytes", "pixels", "near"]
KINDS: tuple[Kind, ...] = ("bytes", "pixels", "near")  # the strictest first
Collection = tuple["Index", Sequence[Entry]]

# Formats that keep every pixel. A WebP or a JPEG XL may, but does not say so in the catalogue; a GIF loses colours.
_LOSSLESS = frozenset(("raw", "png", "tiff", "bmp", "dib", "ppm", "tga", "psd", "qoi", "sgi", "pcx", "dds"))
_NEAR_PIXELS = 0.9  # least cosine of images whose pixels are compared
_PIXELS_DISTANCE = 6  # most bits in which their hashes differ
_CELLS = 32  # of each axis of the grid whose mean colours are compared
_CELL_PIXELS = 4  # least pixels of a cell's edge: fewer depend on the filter that shrank the image
_THUMBNAIL_PIXELS = 256
_TOLERANCE = 24  # most difference of a mean colour, of 255; what JPEG of quality 25 changes


@dataclass(frozen=True)
class DuplicateGroup:
    """Files that are equal, or look alike.

    Attributes:
        kind: the loosest of `kinds`.
        files: the best copy first: more pixels, then a lossless format, then more bytes, then taken or modified
            earlier, then the shorter path.
        kinds: how each file compares with the best copy: "bytes" for the same file content, "pixels" for the same
            image in another size, format or compression, "near" for one that looks alike.
        similarities: cosine of each file with the best copy; 1 for equal bytes.
    """

    kind: Kind
    files: list[Entry]
    kinds: list[Kind]
    similarities: list[float]

    @property
    def spare_bytes(self) -> int:
        """Size of all files but the best copy."""
        return sum(file.size or 0 for file in self.files[1:])

    def to_dict(self) -> dict[str, Any]:
        """Return what `oneclip duplicates --json` prints of a group."""
        files = zip(self.files, self.kinds, self.similarities, strict=True)
        return {
            "kind": self.kind,
            "files": [
                {
                    "path": file.path,
                    "kind": kind,
                    "similarity": round(similarity, 6),
                    "bytes": file.size,
                    "width": file.facts.width,
                    "height": file.facts.height,
                    "format": file.facts.format,
                    "taken_at": file.facts.taken_at,
                    "sha256": file.sha256,
                }
                for file, kind, similarity in files
            ],
        }


def find_duplicates(
    index: Index,
    near: float = NEAR,
    where: str | None = None,
    under: str | os.PathLike[str] | None = None,
    *,
    kind: Kind = "near",
    report: Callable[[int], None] = lambda count: None,
) -> list[DuplicateGroup]:
    """Find the duplicates of an index; arguments as of `Index.search` and `group_duplicates`."""
    return group_duplicates([(index, index.entries(where, under))], near, kind=kind, report=report)


def group_duplicates(
    collections: Sequence[Collection],
    near: float = NEAR,
    *,
    kind: Kind = "near",
    report: Callable[[int], None] = lambda count: None,
) -> list[DuplicateGroup]:
    """Group the equal and similar files of indexes.

    Files that no longer are what the index knows are left out, and so are further names of one file, such as links:
    deleting every file of a group but one never deletes the last copy.

    Args:
        collections: indexes made by one model, with the files of each to compare.
        near: least cosine of images that look alike; their perceptual hashes must agree, too.
        kind: the loosest kind to look for.
        report: called with the number of images that were just compared, of `count_images`.

    Returns:
        Groups of two or more files, by kind, then by path.

    Raises:
        ConfigError: if `near` is not a cosine, or different models made the indexes.
    """
    if not isinstance(near, (int, float)) or not 0 < near <= 1:
        raise ConfigError(f"near is {near}; expected a cosine above 0 and at most 1")
    if kind not in KINDS:
        raise ConfigError(f"kind is {kind!r}; expected one of {', '.join(KINDS)}")
    entries = sorted(_real_files(entry for _, found in collections for entry in found), key=_quality)
    by_content: dict[str, list[Entry]] = {}
    for entry in entries:
        by_content.setdefault(entry.sha256, []).append(entry)
    copies = list(by_content.values())  # of each content, the content with the best file first
    if kind == "bytes":
        return _groups(copies, {})
    return _groups(copies, _join_similar(copies, _Embeddings(collections, copies), near, kind, report))


def count_images(collections: Sequence[Collection]) -> int:
    """Return the number of different images, for progress."""
    return len({entry.sha256 for _, entries in collections for entry in entries})


def _join_similar(
    copies: list[list[Entry]],
    embeddings: _Embeddings,
    near: float,
    kind: Kind,
    report: Callable[[int], None],
) -> dict[int, list[tuple[int, Kind, float]]]:
    """Join contents that look alike.

    Returns:
        The members of each group by the best content: content, kind, cosine with the best.
    """
    contents = embeddings.contents
    files = [copies[content][0] for content in contents.tolist()]
    hashes = np.array([file.facts.perceptual_hash for file in files], np.int64)
    pixels = find_leaders(
        *(hashes, embeddings.vectors, min(near, _NEAR_PIXELS), report),
        distance=_PIXELS_DISTANCE,
        confirm=lambda leader, image: _has_same_pixels(files[leader], files[image]),
    )
    leaders, kinds = pixels.numbers, np.zeros(len(files), np.bool_)  # whether each is only near its leader
    if kind == "near":
        alone = np.flatnonzero(leaders == np.arange(len(files)))
        found = alone[find_leaders(hashes[alone], lambda rows: embeddings.vectors(alone[rows]), near).numbers]
        best = np.arange(len(files))
        best[alone] = found
        kinds, leaders = best[leaders] != leaders, best[leaders]
    groups: dict[int, list[tuple[int, Kind, float]]] = {}
    for i in np.flatnonzero(leaders != np.arange(len(files))).tolist():
        pair = embeddings.vectors(np.array([leaders[i], i]))
        member: tuple[int, Kind, float] = (
            int(contents[i]),
            "near" if kinds[i] else "pixels",
            min(1.0, float(pair[0] @ pair[1])),
        )
        groups.setdefault(int(contents[leaders[i]]), []).append(member)
    return groups


def _groups(
    copies: list[list[Entry]], similar: dict[int, list[tuple[int, Kind, float]]]
) -> list[DuplicateGroup]:
    """Return the groups of two or more files."""
    joined = {member for members in similar.values() for member, _, _ in members}
    groups = []
    for best in range(len(copies)):
        if best in joined:
            continue
        members: list[tuple[int, Kind, float]] = [(best, "bytes", 1.0), *similar.get(best, [])]
        files = [
            (entry, kind, similarity) for content, kind, similarity in members for entry in copies[content]
        ]
        if len(files) > 1:
            files.sort(key=lambda file: _quality(file[0]))
            entries, kinds, similarities = (list(column) for column in zip(*files, strict=True))
            groups.append(DuplicateGroup(max(kinds, key=KINDS.index), entries, kinds, similarities))
    return sorted(groups, key=lambda group: (KINDS.index(group.kind), group.files[0].path))


class _Embeddings:
    """Embeddings of contents of several indexes.

    Attributes:
        contents: (N,) int64 places in `copies` of the contents that have an embedding.
    """

    def __init__(self, collections: Sequence[Collection], copies: list[list[Entry]]) -> None:
        require_one_model([index for index, _ in collections])
        self._snapshots: list[Snapshot] = [index.snapshot() for index, _ in collections]
        places: dict[str, tuple[int, int]] = {}
        for number, (snapshot, (_, entries)) in enumerate(zip(self._snapshots, collections, strict=True)):
            digests = {entry.content: entry.sha256 for entry in entries}
            rows = snapshot.rows_of(np.fromiter(digests, np.int64, len(digests)))
            for content, row in zip(snapshot.contents[rows].tolist(), rows.tolist(), strict=True):
                places.setdefault(digests[content], (number, row))
        known = [i for i, files in enumerate(copies) if files[0].sha256 in places]
        self.contents = np.array(known, np.int64)
        found = np.array([places[copies[i][0].sha256] for i in known], np.int64).reshape(-1, 2)
        self._owners, self._rows = found[:, 0], found[:, 1]

    def vectors(self, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the embeddings (M, D) float32 of some of `contents`, by number (M,)."""
        owners, rows = self._owners[numbers], self._rows[numbers]
        if len(self._snapshots) == 1:
            return self._snapshots[0].scan.vectors(rows)
        parts = {
            owner: self._snapshots[owner].scan.vectors(rows[owners == owner])
            for owner in set(owners.tolist())
        }
        found = np.empty((len(numbers), next(iter(parts.values())).shape[1]), np.float32)
        for owner, part in parts.items():
            found[owners == owner] = part
        return found


def require_one_model(indexes: Sequence[Index]) -> None:
    """Raise ConfigError unless one model made all indexes."""
    made = [(index, index.metadata) for index in indexes if index.metadata is not None]
    for index, metadata in made[1:]:
        if metadata != made[0][1]:
            raise ConfigError(
                f"{index.path} was made by {index.model_name}, {made[0][0].path} by {made[0][0].model_name} or with "
                "other settings; make both with one model, or put all folders into one index with --index"
            )


def read_status(entry: Entry) -> tuple[Entry, os.stat_result] | None:
    """Return a file as it is now, with size and time; None if it is missing, or not what the index knows.

    The index trusts no stamp of a file that was modified a moment before; such a file is read.
    """
    try:
        status = os.stat(entry.path)
        if entry.size is None and sha256_of(Path(entry.path)) == entry.sha256:
            entry = replace(entry, size=status.st_size, mtime_ns=status.st_mtime_ns)
    except (OSError, ValueError):
        return None
    return (entry, status) if (status.st_size, status.st_mtime_ns) == (entry.size, entry.mtime_ns) else None


def _real_files(entries: Iterable[Entry]) -> list[Entry]:
    """Leave out files that are missing or have changed, and all names but one of the same file."""
    found: dict[tuple[int, int], Entry] = {}
    for entry, status in filter(None, map(read_status, entries)):
        identity = (status.st_dev, status.st_ino)
        other = found.setdefault(identity, entry)
        if other is not entry:
            found[identity] = min(other, entry, key=lambda one: (os.path.islink(one.path), _quality(one)))
    return list(found.values())


def _quality(entry: Entry) -> Any:
    """Return what files are ordered by, the best first."""
    facts = entry.facts
    return (
        -facts.width * facts.height,
        facts.format not in _LOSSLESS,
        -(entry.size or 0),
        facts.taken_at is None,
        facts.taken_at or "",
        entry.mtime_ns or 0,
        len(entry.path),
        entry.path,
    )


def _has_same_pixels(best: Entry, other: Entry) -> bool:
    """Return whether two files show the same image, whole and in the same colours.

    The mean colours of a grid are compared: a crop, a shift, a mark or another exposure changes them, unlike
    compression and resizing.
    """
    large, small = best.facts, other.facts
    scale = max(small.width, small.height) / max(large.width, large.height)
    if abs(large.width * scale - small.width) > 1 or abs(large.height * scale - small.height) > 1:
        return False
    cells = max(1, min(_CELLS, small.width // _CELL_PIXELS, small.height // _CELL_PIXELS))
    a, b = (_mean_colours(file.path, file.mtime_ns, cells) for file in (best, other))
    return a is not None and b is not None and bool(np.abs(a - b).max() <= _TOLERANCE)


@lru_cache(maxsize=1024)
def _mean_colours(path: str, mtime_ns: int | None, cells: int) -> NDArray[np.int16] | None:
    """Return the mean colours of a grid (cells, cells, 3), or None if the file cannot be read."""
    from PIL import Image

    from oneclip.image.thumbnail import make_thumbnail

    image = make_thumbnail(path, _THUMBNAIL_PIXELS)
    if image is None:
        return None
    return np.asarray(image.resize((cells, cells), Image.Resampling.BOX)).astype(np.int16)
