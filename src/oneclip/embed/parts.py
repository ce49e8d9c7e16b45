"""A folder of numbered parts: rows that are safe on disk, whatever happens to the program that writes them.

A part is written whole or not at all, and then never changed while a run goes on. What a run has in hand and has not
written is all that a crash can take.
"""

from __future__ import annotations

import io
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from oneclip.embed.folders import Folder
from oneclip.embed.formats import Format
from oneclip.embed.items import Stamp
from oneclip.embed.rows import Facts, Rows
from oneclip.errors import DataError, OutputError

if TYPE_CHECKING:
    from oneclip.encoder import Features

MADE_BY = "_made_by.json"  # readers of a folder of Parquet pass over names that begin with _ or .
ASIDE = "_damaged-"
PARTS_IN_MEMORY = 3  # where content was renamed, its vectors are looked up nearly in the order of the parts
_PART = re.compile(r"part-(\d{6,})\.\w+")


class Parts:
    """The parts in a folder, and which row of them is the latest of each name.

    Args:
        folder: where they are.
        format: of the parts.
        facts: what makes the vectors of this run.

    Attributes:
        damaged: files that were parts and cannot be read; they were put aside, their rows will be made again.

    Raises:
        OutputError: if what is there was made by something else.
    """

    def __init__(self, folder: Folder, format: Format, facts: Facts) -> None:
        self.folder, self._format, self._facts = folder, format, facts
        self.damaged: list[str] = []
        self._latest: dict[str, tuple[str, int]] = {}  # name to digest and part
        self._stamps: dict[str, Stamp] = {}
        self._by_content: dict[str, tuple[int, int]] = {}  # digest to part and row in it, latest or not
        self._stale: dict[int, set[str]] = {}  # parts with rows that a later part replaces
        self._restamped: set[int] = set()  # parts with rows of files whose time has changed and nothing else
        self._recent: OrderedDict[int, Rows] = OrderedDict()  # parts that vectors were looked up in
        self._lock = threading.Lock()
        self._next = 0
        names = folder.names()
        self._is_begun = MADE_BY in names
        self._check_facts(names)
        others = [n for n in names if _PART.fullmatch(n) and not n.endswith(format.suffix)]
        if others:  # their rows would be there twice
            raise OutputError(
                f"{folder} holds parts of another format ({others[0]}), not {format.suffix}; go on with that one "
                "(--parts), name another output, or --overwrite to replace it"
            )
        for name in names:
            if name.startswith(".") and name.endswith(".tmp"):  # of a run that was killed while it wrote
                folder.remove(name)
        for number in self._numbers(names):
            self._take(number)

    def __len__(self) -> int:
        return len(self._latest)

    def digest(self, name: str) -> str | None:
        """The hash of the content that the row of this name was made of; None if there is no such row."""
        digest, _ = self._latest.get(name, (None, 0))
        return digest

    def digests(self) -> Iterator[tuple[str, str]]:
        """Names and hashes of all rows."""
        return ((name, digest) for name, (digest, _) in self._latest.items())

    def stamp(self, name: str) -> Stamp | None:
        """Size and time of the file that the row of this name was made of."""
        return self._stamps.get(name)

    def restamp(self, name: str, stamp: Stamp) -> None:
        """Note that a file with the content of a row now has this size and time."""
        self._stamps[name] = stamp
        self._restamped.add(self._latest[name][1])

    def vector(self, digest: str) -> Features | None:
        """The vector (D,) of content with this hash, whatever it is called. May be asked from many threads."""
        if digest not in self._by_content:
            return None
        number, index = self._by_content[digest]
        with self._lock:
            if number not in self._recent:
                try:
                    self._recent[number] = self._read(number)
                except DataError:  # damaged since it was written: the vector is made again
                    return None
            self._recent.move_to_end(number)
            while len(self._recent) > PARTS_IN_MEMORY:
                self._recent.popitem(last=False)
            found: Features = self._recent[number].vectors[index].astype("f4")
            return found

    def write(self, rows: Rows) -> None:
        """Write one more part.

        Raises:
            OutputError: if that is not possible; all other parts are untouched.
        """
        if not self._is_begun:
            facts = (json.dumps(self._facts.to_dict(), indent=2) + "\n").encode()
            self.folder.write(MADE_BY, lambda file: file.write(facts))
            self._is_begun = True
        self._write_part(self._next, rows)
        self._enter(self._next, rows.names, rows.digests, rows.stamps)
        self._next += 1

    def drop(self, name: str) -> None:
        """Forget the row of an item whose content is now another and cannot be encoded."""
        self._stamps.pop(name, None)
        _, part = self._latest.pop(name)
        self._stale.setdefault(part, set()).add(name)

    def tidy(self) -> None:
        """Take the rows that later ones replace out of their parts."""
        for number in sorted(self._stale.keys() | self._restamped):
            names = self._stale.pop(number, set())
            self._restamped.discard(number)
            rows = self._read(number)
            kept = [i for i, name in enumerate(rows.names) if name not in names]
            if kept:
                rows = rows.chosen(kept)
                stamps = [self._stamps.get(name) for name in rows.names]
                self._write_part(number, Rows(rows.names, rows.digests, rows.vectors, stamps))
            else:
                self.folder.remove(self._name(number))

    def read(self) -> Iterator[Rows]:
        """The latest row of each name, part by part."""
        for number in self._numbers(self.folder.names()):
            rows = self._read(number)
            kept = [i for i, name in enumerate(rows.names) if self._latest.get(name, ("", -1))[1] == number]
            yield rows if len(kept) == len(rows) else rows.chosen(kept)

    def _write_part(self, number: int, rows: Rows) -> None:
        self.folder.write(self._name(number), partial(self._format.write, rows=rows, facts=self._facts))

    def _read(self, number: int) -> Rows:
        name = self._name(number)
        with self.folder.open(name) as file:
            rows, _ = self._format.read(file, self.folder.place(name))
        return rows

    def _take(self, number: int) -> None:
        self._next = max(self._next, number + 1)
        name = self._name(number)
        try:
            with self.folder.open(name) as file:
                names, digests, stamps = self._format.read_digests(file, self.folder.place(name))
        except DataError:  # written whole, so the disk has damaged it
            self.folder.rename(name, ASIDE + name)
            self.damaged.append(self.folder.place(ASIDE + name))
        else:
            self._enter(number, names, digests, stamps)

    def _enter(self, number: int, names: list[str], digests: list[str], stamps: list[Stamp | None]) -> None:
        for index, (name, digest, stamp) in enumerate(zip(names, digests, stamps, strict=True)):
            if name in self._latest:
                self._stale.setdefault(self._latest[name][1], set()).add(name)
                self._stamps.pop(name, None)
            self._latest[name] = (digest, number)
            self._by_content[digest] = (number, index)
            if stamp is not None:
                self._stamps[name] = stamp

    def _check_facts(self, names: list[str]) -> None:
        if not self._is_begun:
            check_folder(self.folder, names)
            return
        place = self.folder.place(MADE_BY)
        try:
            with self.folder.open(MADE_BY) as file:
                facts = Facts.from_dict(json.load(io.TextIOWrapper(file, "utf-8")))
        except (ValueError, KeyError, RecursionError, TypeError) as error:
            raise OutputError(
                f"{place} cannot be read, so nobody knows what made the vectors beside it: {error}"
            ) from error
        self._facts.check_same(facts, self.folder)

    def _numbers(self, names: list[str]) -> list[int]:
        """Of the parts among these files, in their order."""
        found = (_PART.fullmatch(name) for name in names if name.endswith(self._format.suffix))
        return sorted(int(match[1]) for match in found if match)

    def _name(self, number: int) -> str:
        return f"part-{number:06}{self._format.suffix}"


def clear(folder: Folder) -> None:
    """Remove all parts, and then what says what made them: without that, parts are strangers to the next run."""
    names = folder.names()
    for name in names:
        if _PART.fullmatch(name.removeprefix(ASIDE)):
            folder.remove(name)
    if MADE_BY in names:
        folder.remove(MADE_BY)


def check_folder(folder: Folder, names: list[str]) -> None:
    """Refuse a folder that has something in it and says of no making.

    Args:
        folder: for the message.
        names: of what is in it.

    Raises:
        OutputError: naming one of the strangers.
    """
    strangers = [name for name in names if not name.startswith(("_", "."))]
    if strangers and MADE_BY not in names:
        raise OutputError(
            f"{folder} is a folder that `oneclip embed` did not make: {strangers[0]} is in it; "
            "name one that is empty or not there"
        )
