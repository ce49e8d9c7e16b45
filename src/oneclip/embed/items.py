"""One thing to encode: its name, and how its content is read."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from oneclip.hub.addresses import is_address

Stamp: TypeAlias = tuple[int, int]
"""The size of a file in bytes, and the time of its last change in nanoseconds."""

# a file changed so lately may change again within the same tick of its file system's clock
RECENT_NS = 2_000_000_000


def row_key(name: str) -> str:
    """What makes two names one row: `p/a.jpg`, `./p/a.jpg` and `$PWD/p/a.jpg` are one, whichever was stored.

    A normalised path, relative if it lies in the current folder and absolute otherwise; links are not resolved. An
    address stays as it is. `shard.tar/a.jpg` and `table.csv:7` are treated like paths.
    """
    if is_address(name) or "\0" in name:
        return name
    path = os.path.normcase(os.path.normpath(name))
    if not os.path.isabs(path) and not path.startswith(".."):
        return path
    try:
        here = os.path.normcase(os.getcwd())
    except OSError:  # it was deleted
        return path
    path = os.path.normpath(os.path.join(here, path))
    return path.removeprefix(here.rstrip(os.sep) + os.sep) if path != here else "."


@dataclass(frozen=True)
class Item:
    """A picture or a caption of a source.

    Attributes:
        name: what its row is called: a path, an address, `shard.tar/key.jpg`, or `table.csv:7`.
        read: gives its bytes, a file's or UTF-8. May raise an OSError or a OneCLIPError; called in a thread.
        file: the path of the local file that its bytes are in, if they are in one.
        key: what makes it the same as another, see `row_key`.
        size: of what `read` gives, in bytes, where that is known; None for an item that is all of its `file`.
    """

    name: str
    read: Callable[[], bytes]
    file: str | None = None
    key: str = ""
    size: int | None = None

    def __post_init__(self) -> None:
        if not self.key:
            object.__setattr__(self, "key", row_key(self.name))

    def stamp(self) -> Stamp | None:
        """Size and time of its file; None if it has none, or one that was changed a moment ago."""
        if self.file is None:
            return None
        try:
            status = os.stat(self.file)
        except (OSError, ValueError):
            return None  # reading it says why
        is_recent = time.time_ns() - status.st_mtime_ns < RECENT_NS
        return None if is_recent else (status.st_size, status.st_mtime_ns)


@dataclass(frozen=True)
class Failure:
    """Something that has no vector, and why.

    Attributes:
        name: of an item, or of a whole source that cannot be read on.
        reason: a sentence for people.
        hides_others: whether items may be missing because of it whose names have nothing to do with its own.
    """

    name: str
    reason: str
    hides_others: bool = False

    def hides(self, key: str) -> bool:
        """Whether an item with this key may be missing only because of this failure."""
        root = row_key(self.name)
        if self.hides_others or key == root:
            return True
        if root == ".":
            return not is_address(key) and not os.path.isabs(key)
        return key.startswith((root + "/", root + ":", root.rstrip(os.sep) + os.sep))

    def __str__(self) -> str:
        return self.reason if self.name in self.reason else f"{self.name}: {self.reason}"


Found: TypeAlias = Item | Failure


class Source(Protocol):
    """What every kind of source is: a name, perhaps a count, and its items in an order that stays the same.

    Attributes:
        name: of it.
        is_bulky: listing it reads the contents of its items, too, so that whoever encodes them should list it.
    """

    name: str
    is_bulky: bool

    def count(self) -> int | None:
        """How many items there are, if that is cheap to know."""

    def __iter__(self) -> Iterator[Found]: ...
