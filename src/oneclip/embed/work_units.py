"""Sources to units of work, and what comes back of them: all that travels between a driver and its workers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, groupby, islice
from typing import TYPE_CHECKING, Any

import numpy as np

from oneclip.embed.items import Found, Item, Source, Stamp

if TYPE_CHECKING:
    from oneclip.encoder import Features


@dataclass(frozen=True)
class Unit:
    """What one worker does at a time.

    Attributes:
        number: its place among all units.
        found: items that were listed, or a source that the worker lists.
    """

    number: int
    found: Sequence[Found] | Source


@dataclass(frozen=True)
class Answer:
    """What became of an item, or of a source that cannot be read on.

    Attributes:
        name: of it.
        key: of the item; None of a source.
        digest: SHA-256 of its content, if that could be read.
        vector: (D,); None for what has none, and for what was done in an earlier run.
        reason: why there is no vector; None if there is one, now or from earlier.
        is_new: whether the vector was computed for this item.
        is_tried: whether it came as far as the model.
        stamp: size and time of the item's file, if they are known.
        hides_others: as of a `Failure`.
    """

    name: str
    key: str | None
    digest: str | None = None
    vector: Features | None = None
    reason: str | None = None
    is_new: bool = False
    is_tried: bool = False
    stamp: Stamp | None = None
    hides_others: bool = False


@dataclass(frozen=True)
class Group:
    """Answers in the order of the source. The same unit always gives the same groups, whoever does it.

    Attributes:
        unit: the number of the unit.
        first: how many answers of the unit are before these.
        answers: some of them, or none.
        is_last: whether no more of this unit will come.
        seconds: that were spent reading, decoding, waiting and computing.
        not_read: of the last group of a source that the worker lists: images and videos in it that are not read here.
        problem: what keeps the worker from working at all.
    """

    unit: int
    first: int = 0
    answers: Sequence[Answer] = ()
    is_last: bool = False
    seconds: dict[str, float] | None = None
    not_read: dict[str, int] | None = None
    problem: str | None = None


def units_of(sources: Sequence[Source], size: int) -> Iterator[Unit]:
    """Cut sources into units, in their order.

    Args:
        sources: bulky ones are a unit each; the items of the others are listed.
        size: how many listed items make a unit.
    """
    numbers = count()
    for is_bulky, neighbours in groupby(sources, lambda source: source.is_bulky):
        if is_bulky:
            yield from (Unit(next(numbers), source) for source in neighbours)
        else:  # many sources may be a picture each
            listed = chain.from_iterable(neighbours)
            while chunk := list(islice(listed, size)):
                yield Unit(next(numbers), chunk)


class Known:
    """Which contents have a vector, and which files have not changed: 16 bytes each, in arrays that all processes of
    a machine share.

    Args:
        rows: keys of items, hashes of what their vectors were made of, and stamps of their files.
    """

    def __init__(self, rows: Iterable[tuple[str, str, Stamp | None]]) -> None:
        contents, files = [], []
        for key, digest, stamp in rows:
            contents.append(_mark(digest))
            if stamp is not None:
                files.append(_mark(key, *stamp))
        self._contents, self._files = (np.sort(np.array(marks, "S16")) for marks in (contents, files))

    def has(self, digest: str) -> bool:
        """Whether there is a vector of this content, under any name."""
        return _is_among(_mark(digest), self._contents)

    def is_unchanged(self, item: Item, stamp: Stamp) -> bool:
        """Whether there is a vector of this item, made of a file of the same size and time."""
        return _is_among(_mark(item.key, *stamp), self._files)


def _is_among(mark: bytes, marks: Any) -> bool:
    wanted: Any = np.array(mark, "S16")
    place = int(np.searchsorted(marks, wanted))
    return place < len(marks) and bool(marks[place] == wanted)


def _mark(*values: object) -> bytes:
    text = "\0".join(map(str, values))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]
