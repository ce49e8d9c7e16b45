"""Care for an index: its state, a comparison with the files, and compaction."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from oneclip.embed.items import Failure
from oneclip.errors import DataError
from oneclip.hub.cache import sha256_of
from oneclip.search.catalogue import Catalogue
from oneclip.search.results import IndexStatus, VerifyResult
from oneclip.search.segments import MAX_ROWS, Segment, write_segment

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from oneclip.search.index import Index

DEAD_SHARE = 0.2  # of the embeddings; compaction beyond it
FEW_DEAD = 256  # embeddings that may stay in any case: a file that comes back needs no computation
MANY_SEGMENTS = 8  # that are not full; they are merged beyond it


def status(index: Index) -> IndexStatus:
    """Collect counts, size and settings of an index."""
    catalogue, metadata = index.catalogue, index.metadata
    ((files, contents, failed),) = catalogue.rows(
        "SELECT count(content), count(DISTINCT content), count(error) FROM files"
    )
    ((stored, segments),) = catalogue.rows("SELECT coalesce(sum(rows), 0), count(*) FROM segments")
    return IndexStatus(
        path=str(index.path),
        roots={root: os.path.isdir(root) for root in catalogue.roots()},
        model=index.model_name,
        metadata={} if metadata is None else metadata.to_dict(),
        files=files,
        contents=contents,
        failed=failed,
        dead_rows=stored - len(catalogue.stored_rows()),
        segments=segments,
        bytes=sum(path.stat().st_size for path in index.path.rglob("*") if path.is_file()),
        updated_at=catalogue.info("updated_at"),
    )


def failures(catalogue: Catalogue) -> list[Failure]:
    """List the files without an embedding, with the reasons."""
    return [
        Failure(os.path.join(os.fsdecode(root), os.fsdecode(path)), reason)
        for root, path, reason in catalogue.rows(
            "SELECT r.path, f.path, f.error FROM files AS f JOIN roots AS r ON r.id = f.root "
            "WHERE f.error IS NOT NULL ORDER BY r.id, f.path"
        )
    ]


def verify(index: Index, *, content: bool) -> VerifyResult:
    """Compare an index with the files, and check its segments, see `Index.verify`; the caller excludes writers."""
    catalogue, result = index.catalogue, VerifyResult()
    if not catalogue.is_whole():
        raise DataError(
            f"{catalogue.path} is damaged; delete {index.path} and run `oneclip index ROOT` again"
        )
    for number, name in catalogue.segment_names().items():
        try:
            segment = Segment.open(index.segments / name)
            try:
                segment.verify()
            finally:
                segment.close()
        except DataError as error:
            result.damaged.append(str(error))
            _forget_segment(catalogue, number)
            with suppress(OSError):
                os.unlink(index.segments / name)
    changed: list[int] = []
    for file, path, sha256 in _files(catalogue):
        if not os.path.exists(path):
            result.missing.append(path)
            continue
        if not content:
            continue
        result.checked += 1
        try:
            is_equal = sha256_of(Path(path)) == sha256
        except OSError as error:
            result.missing.append(f"{path} ({error.strerror})")
            continue
        if not is_equal:
            result.changed.append(path)
            changed.append(file)
    with catalogue.transaction():
        catalogue.write("UPDATE files SET size = NULL, mtime_ns = NULL WHERE id = ?", [(i,) for i in changed])
    return result


def _files(catalogue: Catalogue) -> Iterator[tuple[int, str, str]]:
    """Yield id, path and SHA-256 of every file with an embedding."""
    for file, root, path, sha256 in catalogue.rows(
        "SELECT f.id, r.path, f.path, c.sha256 FROM files AS f JOIN contents AS c ON c.id = f.content "
        "JOIN roots AS r ON r.id = f.root ORDER BY r.id, f.path"
    ):
        yield file, os.path.join(os.fsdecode(root), os.fsdecode(path)), sha256


def _forget_segment(catalogue: Catalogue, number: int) -> None:
    """Let the images of a damaged segment be encoded again at the next update."""
    with catalogue.transaction():
        catalogue.write(
            "UPDATE files SET size = NULL, mtime_ns = NULL "
            "WHERE content IN (SELECT id FROM contents WHERE segment = ?)",
            [(number,)],
        )
        catalogue.write("UPDATE contents SET segment = NULL, row = NULL WHERE segment = ?", [(number,)])
        catalogue.write("DELETE FROM segments WHERE id = ?", [(number,)])


def compact(index: Index, *, always: bool = False) -> int:
    """Rewrite segments without the embeddings of files that no longer exist, and merge small ones.

    Readers keep the old segments while they use them. The caller excludes other writers.

    Args:
        index: to compact.
        always: also if few embeddings are dead and few segments are small.

    Returns:
        The number of embeddings that were removed.

    Raises:
        DataError: if a segment is damaged; nothing has changed.
        OutputError: if the disk is full; nothing has changed.
    """
    catalogue = index.catalogue
    sizes = dict(catalogue.rows("SELECT id, rows FROM segments ORDER BY id"))
    live: dict[int, list[tuple[int, int]]] = {number: [] for number in sizes}
    for content, number, row in catalogue.stored_rows():
        live[number].append((row, content))
    dead = sum(sizes.values()) - sum(map(len, live.values()))
    small = [number for number in sizes if len(live[number]) <= MAX_ROWS // 2]
    is_due = dead > max(FEW_DEAD, DEAD_SHARE * sum(sizes.values())) or len(small) > MANY_SEGMENTS
    if not (always or is_due):
        return 0
    old = [number for number in sizes if number in small or len(live[number]) < sizes[number]]
    if not dead and len(old) < 2:
        return 0
    names = catalogue.segment_names()
    new = list(_rewrite(index.segments, [(names[number], sorted(live[number])) for number in old]))
    with catalogue.transaction():
        for name, contents in new:
            segment = catalogue.insert(
                "INSERT INTO segments (name, rows) VALUES (?, ?)", (name, len(contents))
            )
            catalogue.write(
                "UPDATE contents SET segment = ?, row = ? WHERE id = ?",
                ((segment, row, content) for row, content in enumerate(contents)),
            )
        catalogue.write(
            "DELETE FROM contents WHERE NOT EXISTS (SELECT 1 FROM files WHERE content = contents.id)", [()]
        )
        catalogue.write("DELETE FROM segments WHERE id = ?", [(number,) for number in old])
    remove_unused_segments(catalogue, index.segments)
    return dead


def _rewrite(folder: Path, parts: list[tuple[str, list[tuple[int, int]]]]) -> Iterator[tuple[str, list[int]]]:
    """Write the live rows of segments to new ones; yield the name and the contents of each."""
    vectors: list[NDArray[np.float32]] = []
    normalizers: list[NDArray[np.float32]] = []
    contents: list[int] = []

    def written(count: int) -> tuple[str, list[int]]:
        stacked, beside = np.concatenate(vectors), np.concatenate(normalizers)
        name = write_segment(folder, stacked[:count], beside[:count])
        vectors[:], normalizers[:] = [stacked[count:]], [beside[count:]]
        done = contents[:count]
        del contents[:count]
        return name, done

    for name, live in parts:
        if not live:
            continue
        segment = Segment.open(folder / name)
        rows = np.array([row for row, _ in live], np.int64)
        vectors.append(segment.vectors(rows))
        stored = segment.log_normalizers
        normalizers.append(np.full(len(rows), np.nan, np.float32) if stored is None else stored[rows])
        contents += [content for _, content in live]
        segment.close()
        if len(contents) >= MAX_ROWS:
            yield written(MAX_ROWS)
    if contents:
        yield written(len(contents))


def remove_unused_segments(catalogue: Catalogue, folder: Path) -> None:
    """Remove segment files that the catalogue does not name: of a killed update, or replaced while they were in use.

    Only the one writer of an index may call this.
    """
    names = set(catalogue.segment_names().values())
    if folder.is_dir():
        for entry in list(os.scandir(folder)):
            if entry.name not in names:
                with suppress(OSError):  # in use on Windows; removed another time
                    os.unlink(entry.path)
