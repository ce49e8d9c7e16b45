"""Work units for cluster workers, and the results they return."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, groupby, islice
from typing import TYPE_CHECKING, Any

import numpy as np

from oneclip.embed.items import FileStamp, Found, Item, ItemSource

if TYPE_CHECKING:
    from oneclip.encoder import Features


@dataclass(frozen=True)
class WorkUnit:
    """Piece of work for one worker.

    Attributes:
        number: position among all units.
        found: listed items, or a source that the worker lists.
    """

    number: int
    found: Sequence[Found] | ItemSource


@dataclass(frozen=True)
class ItemResult:
    """Result of an item, or of a source that could not be read to its end.

    Attributes:
        name: of the item or source.
        key: of the item; None for a source.
        digest: SHA-256 of its content, if it could be read.
        vector: embedding (D,); None for a failure, and for an item of an earlier run.
        reason: why there is no embedding; None if there is one, from now or earlier.
        is_new: whether the embedding was computed for this item.
        is_tried: whether it reached the model.
        stamp: size and modification time of the item's file, if known.
        hides_others: as in `Failure`.
    """

    name: str
    key: str | None
    digest: str | None = None
    vector: Features | None = None
    reason: str | None = None
    is_new: bool = False
    is_tried: bool = False
    stamp: FileStamp | None = None
    hides_others: bool = False


@dataclass(frozen=True)
class ResultBatch:
    """Results of a unit in the order of its items. A unit always gives the same batches, whichever worker does it.

    Attributes:
        unit: number of the unit.
        first: number of results of the unit before these.
        results: of some items, or empty.
        is_last: whether the unit is complete.
        seconds: spent reading, decoding, waiting and computing.
        not_read: in the last batch of a source that the worker lists: images and videos that cannot be read here.
        problem: why the worker cannot work at all.
    """

    unit: int
    first: int = 0
    results: Sequence[ItemResult] = ()
    is_last: bool = False
    seconds: dict[str, float] | None = None
    not_read: dict[str, int] | None = None
    problem: str | None = None


def split_into_units(sources: Sequence[ItemSource], size: int) -> Iterator[WorkUnit]:
    """Split sources into work units, in their order.

    Args:
        sources: each bulky one is a unit; the items of the others are listed.
        size: number of listed items in a unit.
    """
    numbers = count()
    for is_bulky, neighbours in groupby(sources, lambda source: source.is_bulky):
        if is_bulky:
            yield from (WorkUnit(next(numbers), source) for source in neighbours)
        else:  # combine neighbours: each may be a single image
            listed = chain.from_iterable(neighbours)
            while chunk := list(islice(listed, size)):
                yield WorkUnit(next(numbers), chunk)


class KnownItems:
    """Set of contents that have an embedding and of files that have not changed.

    Takes 16 bytes for each, in arrays that all processes of a machine share.

    Args:
        rows: key, content hash and file stamp of each item.
    """

    def __init__(self, rows: Iterable[tuple[str, str, FileStamp | None]]) -> None:
        contents, files = [], []
        for key, digest, stamp in rows:
            contents.append(_mark(digest))
            if stamp is not None:
                files.append(_mark(key, *stamp))
        self._contents, self._files = (np.sort(np.array(marks, "S16")) for marks in (contents, files))

    def has(self, digest: str) -> bool:
        """Return whether there is an embedding of this content under any name."""
        return _is_among(_mark(digest), self._contents)

    def is_unchanged(self, item: Item, stamp: FileStamp) -> bool:
        """Return whether there is an embedding of this item, made of a file of this size and time."""
        return _is_among(_mark(item.key, *stamp), self._files)


def _is_among(mark: bytes, marks: Any) -> bool:
    wanted: Any = np.array(mark, "S16")
    index = int(np.searchsorted(marks, wanted))
    return index < len(marks) and bool(marks[index] == wanted)


def _mark(*values: object) -> bytes:
    text = "\0".join(map(str, values))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]
