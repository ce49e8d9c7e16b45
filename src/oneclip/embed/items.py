"""One thing to encode: its name, and how its content is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias


@dataclass(frozen=True)
class Item:
    """A picture or a caption of a source.

    Attributes:
        name: what its row is called: a path, an address, `shard.tar/key.jpg`, or `table.csv:7`.
        read: gives its bytes, a file's or UTF-8. May raise an OSError or a OneCLIPError; called in a thread.
        key: what makes it the same as another: two ways to write one path are one item.
        path: of a file on this machine that is this item and nothing else; "" for other items.
        size: of what `read` gives, in bytes, where that is known beforehand; of a `path` it is looked up.
    """

    name: str
    read: Callable[[], bytes]
    key: str = ""
    path: str = ""
    size: int = 0

    @property
    def identity(self) -> str:
        """`key`, or the name where there is none."""
        return self.key or self.name


@dataclass(frozen=True)
class Failure:
    """Something that has no vector, and why.

    Attributes:
        name: of an item, or of a whole source that cannot be read on.
        reason: a sentence for people.
    """

    name: str
    reason: str

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
