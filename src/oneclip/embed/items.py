"""Items to embed, the sources that list them, and failures to read them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from oneclip.hub.addresses import is_address

FileStamp: TypeAlias = tuple[int, int]
"""Size of a file in bytes, and its modification time in nanoseconds."""

# a file modified this recently may change again without a new time stamp
RECENT_NS = 2_000_000_000


def row_key(name: str) -> str:
    """Normalize a name, so that `p/a.jpg`, `./p/a.jpg` and `$PWD/p/a.jpg` are the same row.

    Returns a normalized path, relative inside the current folder and absolute elsewhere; links are not resolved.
    Addresses are unchanged. `shard.tar/a.jpg` and `table.csv:7` are treated like paths.
    """
    if is_address(name) or "\0" in name:
        return name
    path = os.path.normcase(os.path.normpath(name))
    if not os.path.isabs(path) and not path.startswith(".."):
        return path
    try:
        here = os.path.normcase(os.getcwd())
    except OSError:  # the current folder was deleted
        return path
    path = os.path.normpath(os.path.join(here, path))
    return path.removeprefix(here.rstrip(os.sep) + os.sep) if path != here else "."


@dataclass(frozen=True)
class Item:
    """Image or text of a source.

    Attributes:
        name: of its row: a path, an address, `shard.tar/key.jpg`, or `table.csv:7`.
        read: returns the bytes of an image file or of a text in UTF-8. Called in a thread; may raise OSError or
            OneCLIPError.
        file: path of the local file that contains it, if any.
        key: normalized name, see `row_key`.
        size: number of bytes that `read` returns, if known; None for an item that is a whole `file`.
    """

    name: str
    read: Callable[[], bytes]
    file: str | None = None
    key: str = ""
    size: int | None = None

    def __post_init__(self) -> None:
        if not self.key:
            object.__setattr__(self, "key", row_key(self.name))

    def stamp(self) -> FileStamp | None:
        """Return size and modification time of its file; None without a file, or if it was modified a moment ago."""
        if self.file is None:
            return None
        try:
            status = os.stat(self.file)
        except (OSError, ValueError):
            return None  # the error is reported when the file is read
        is_recent = abs(time.time_ns() - status.st_mtime_ns) < RECENT_NS  # later times are of a wrong clock
        return None if is_recent else (status.st_size, status.st_mtime_ns)


@dataclass(frozen=True)
class Failure:
    """Item or source that could not be read, with the reason.

    Attributes:
        name: of an item, or of a source that could not be read to its end.
        reason: for messages.
        hides_others: whether it may hide items whose names are unrelated to its own.
    """

    name: str
    reason: str
    hides_others: bool = False

    def hides(self, key: str) -> bool:
        """Return whether an item with this key may be missing because of this failure."""
        root = row_key(self.name)
        if self.hides_others or key == root:
            return True
        if root == ".":
            return not is_address(key) and not os.path.isabs(key)
        return key.startswith((root + "/", root + ":", root.rstrip(os.sep) + os.sep))

    @property
    def short_reason(self) -> str:
        """The reason without the name at its start: "empty (0 bytes)" for "a.png is empty (0 bytes)"."""
        for start in (f"the image in {self.name} ", f"{self.name} "):
            if self.reason.startswith(start):
                return self.reason.removeprefix(start).removeprefix("is ").removeprefix("cannot be read: ")
        return self.reason

    def __str__(self) -> str:
        return self.reason if self.name in self.reason else f"{self.name}: {self.reason}"


Found: TypeAlias = Item | Failure


class ItemSource(Protocol):
    """Interface of sources: a name, an optional count, and items in a stable order.

    Attributes:
        name: for messages.
        is_bulky: whether listing reads the contents of the items too, so that the encoding worker should do it.
    """

    name: str
    is_bulky: bool

    def count(self) -> int | None:
        """Return the number of items if it is cheap to know."""

    def __iter__(self) -> Iterator[Found]: ...
