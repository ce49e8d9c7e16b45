"""Bring an index up to date with its folders.

File names, sizes and times decide what to read; the SHA-256 of a file decides what to compute.
"""

from __future__ import annotations

import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Any

from oneclip.embed.items import Found, Item
from oneclip.errors import ConfigError, DataError
from oneclip.hub.addresses import read_bytes
from oneclip.search import maintenance
from oneclip.search.catalogue import Catalogue, FileRow
from oneclip.search.changes import FolderChanges, find_changes
from oneclip.search.places import moved_root, real_root
from oneclip.search.results import UpdateResult

if TYPE_CHECKING:
    from PIL import Image

    from oneclip.embed.throughput import EmbedProgress
    from oneclip.search.index import Index

WATCH_SECONDS = 5.0  # between two looks at the folders, unless one look takes long
MAX_WATCH_SECONDS = 600.0


def watch_pause(seconds: float) -> float:
    """Return how long to wait before the folders are looked at again, if the last update took some seconds.

    A look at a large folder on a slow disk should not keep the disk busy.
    """
    return min(max(WATCH_SECONDS, 10 * seconds), MAX_WATCH_SECONDS)


def update_index(
    index: Index,
    roots: Sequence[str | os.PathLike[str]],
    under: str,
    exclude: Sequence[str] | None,
    prune: bool,
    batch_size: int,
    report: Callable[[EmbedProgress], None],
) -> UpdateResult:
    """Update an index; arguments as of `Index.update`. The caller excludes other writers."""
    catalogue, result = index.catalogue, UpdateResult()
    maintenance.remove_unused_segments(catalogue, index.segments)
    under = _check_under(under)
    exclude = [exclude] if isinstance(exclude, str) else exclude
    numbers = _register_roots(catalogue, list(dict.fromkeys(map(real_root, roots))), exclude)
    if under and len(numbers) != 1:
        raise ConfigError(f"`under` is {under!r}, a folder inside one root; {len(numbers)} roots are given")
    changed: dict[str, tuple[int, bytes, FileRow | None]] = {}
    missing: list[tuple[int, bytes]] = []
    missing_contents: Counter[int] = Counter()
    for root, number in numbers.items():
        known = catalogue.files(number, under)
        changes = find_changes(root, known, under=under, exclude=_excluded(catalogue, number), prune=prune)
        for relative in changes.candidates:
            path = os.fsencode(relative)
            changed[os.path.join(root, relative)] = (number, path, known.get(path))
        missing += [(number, path) for path in changes.missing]
        missing_contents.update(content for path in changes.missing if (content := known[path].content))
        _add_counts(result, changes)
    if changed:
        _encode_changed(index, changed, missing_contents, batch_size, report, result)
    if missing:
        with catalogue.transaction():
            catalogue.write("DELETE FROM files WHERE root = ? AND path = ?", missing)
    result.removed = len(missing) - result.moved
    if changed or missing:
        with catalogue.transaction():
            catalogue.set_info({"updated_at": datetime.now(timezone.utc).isoformat(timespec="seconds")})
        maintenance.compact(index)
    return result


def _register_roots(
    catalogue: Catalogue, roots: Sequence[str], exclude: Sequence[str] | None
) -> dict[str, int]:
    """Return the id of each root by path; new ones are added, and one that was mounted elsewhere is renamed."""
    known = catalogue.roots()
    if not roots and not known:
        raise DataError(f"{catalogue.folder} has no folder of images yet; name one: oneclip index ROOT")
    for root in roots:
        for other in (*known, *roots):
            if _is_inside(root, other) or _is_inside(other, root):
                raise ConfigError(
                    f"{root} and {other} cannot both be folders of {catalogue.folder}: one is inside the other"
                )
    new = [root for root in roots if root not in known]
    for root in new:
        if not os.path.isdir(root):
            what = "is a file; expected a folder" if os.path.exists(root) else "no such folder"
            raise DataError(f"{root}: {what}")
    if new or exclude is not None:
        with catalogue.transaction():
            for root in new:
                if (old := moved_root(catalogue, root)) is not None:
                    catalogue.write(
                        "UPDATE roots SET path = ? WHERE id = ?", [(os.fsencode(root), known.pop(old))]
                    )
                else:
                    catalogue.write("INSERT INTO roots (path) VALUES (?)", [(os.fsencode(root),)])
            if exclude is not None:
                chosen = [os.fsencode(root) for root in roots or known]
                catalogue.write(
                    "UPDATE roots SET exclude = ? WHERE path = ?",
                    [(json.dumps(list(exclude)), path) for path in chosen],
                )
    registered = catalogue.roots()
    return {root: registered[root] for root in roots} if roots else registered


def _check_under(under: str | os.PathLike[str]) -> str:
    """Return a folder relative to its root in its shortest form, "" for the root itself.

    Raises:
        ConfigError: if it leads out of the root.
    """
    path = os.path.normpath(os.fspath(under) or os.curdir)
    if os.path.isabs(path) or path.split(os.sep)[0] == os.pardir:
        raise ConfigError(f"`under` is {str(under)!r}; expected a folder inside the root, relative to it")
    return "" if path == os.curdir else path


def _is_inside(path: str, folder: str) -> bool:
    return path != folder and path.startswith(folder.rstrip(os.sep) + os.sep)


def _excluded(catalogue: Catalogue, root: int) -> list[str]:
    ((text,),) = catalogue.rows("SELECT exclude FROM roots WHERE id = ?", (root,))
    return [str(pattern) for pattern in json.loads(text)]


def _add_counts(result: UpdateResult, changes: FolderChanges) -> None:
    result.unchanged += changes.unchanged
    result.failed += changes.failed
    result.unlisted += changes.unlisted
    result.not_read.update(changes.not_read)


def _encode_changed(
    index: Index,
    changed: dict[str, tuple[int, bytes, FileRow | None]],
    missing: Counter[int],
    batch_size: int,
    report: Callable[[EmbedProgress], None],
    result: UpdateResult,
) -> None:
    """Read the changed files, encode what is new, and publish it; the counts go to `result`."""
    from oneclip.embed.batch_encoder import item_decoder
    from oneclip.embed.run import EmbedOutcome, embed
    from oneclip.search.image_facts import open_with_facts
    from oneclip.search.store import IndexStore, sha256_of_contents

    encoder, decode = index.encoder, index.decode
    index.record_model()
    store = IndexStore(index.catalogue, index.segments, index.relevance, changed)

    def open_file(content: io.BytesIO, **options: Any) -> Image.Image:
        image, store.facts[content.name] = open_with_facts(content, **options)
        return image

    outcome = EmbedOutcome()
    missing_digests = Counter(
        {digest: missing[content] for content, digest in sha256_of_contents(index.catalogue, missing).items()}
    )
    try:
        embed(
            encoder,
            [_ChangedFiles(list(changed))],
            store,
            decode=decode,
            decoder=item_decoder(encoder, decode, open_file),
            batch_size=batch_size,
            report=report,
            outcome=outcome,
        )
    finally:
        store.close()
    result.moved = sum((Counter(store.linked) & missing_digests).values())
    result.added, result.changed = store.added - result.moved, store.changed
    result.unchanged += store.kept
    result.failed += outcome.failed
    result.encoded = outcome.encoded
    result.failures = outcome.first_failures


class _ChangedFiles:
    """Source of the files to read, by absolute path."""

    name, is_bulky = "changed files", False

    def __init__(self, paths: list[str]) -> None:
        self._paths = paths

    def count(self) -> int | None:
        """Return the number of files."""
        return len(self._paths)

    def __iter__(self) -> Iterator[Found]:
        for path in self._paths:
            yield Item(path, partial(read_bytes, path), path, key=path)
