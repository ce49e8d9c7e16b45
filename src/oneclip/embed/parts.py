"""A folder of numbered parts: rows that are safe on disk, whatever happens to the program that writes them.

A part is written whole or not at all, and then never changed while a run goes on. What a run has in hand and has not
written is all that a crash can take.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from oneclip.checkpoint.write import replacing
from oneclip.embed.formats import Format
from oneclip.embed.rows import Facts, Rows
from oneclip.errors import DataError, OutputError

MADE_BY = "_made_by.json"  # readers of a folder of Parquet pass over names that begin with _ or .
_PART = re.compile(r"part-(\d{6,})\.\w+")


class Parts:
    """The parts in a folder, and which row of them is the latest of each name.

    Args:
        folder: where they are; made when the first part is written.
        format: of the parts.
        facts: what makes the vectors of this run.

    Attributes:
        damaged: files that were parts and cannot be read; they were put aside, their rows will be made again.

    Raises:
        OutputError: if what is there was made by something else.
    """

    def __init__(self, folder: Path, format: Format, facts: Facts) -> None:
        self.folder, self._format, self._facts = folder, format, facts
        self.damaged: list[str] = []
        self._latest: dict[str, tuple[str, int]] = {}  # name to digest and part
        self._stale: dict[int, set[str]] = {}  # parts with rows that a later part replaces
        self._next = 0
        if folder.is_dir():
            self._check_facts()
            for leftover in folder.glob(".*.tmp"):  # of a run that was killed while it wrote
                leftover.unlink()
            for number, path in self._paths():
                self._take(number, path)

    def __len__(self) -> int:
        return len(self._latest)

    def digest(self, name: str) -> str | None:
        """The hash of the content that the row of this name was made of; None if there is no such row."""
        digest, _ = self._latest.get(name, (None, 0))
        return digest

    def digests(self) -> Iterator[tuple[str, str]]:
        """Names and hashes of all rows."""
        return ((name, digest) for name, (digest, _) in self._latest.items())

    def write(self, rows: Rows) -> None:
        """Write one more part.

        Raises:
            OutputError: if that is not possible; all other parts are untouched.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.folder} could not be made: {error.strerror}") from error
        if not (self.folder / MADE_BY).exists():
            with replacing(self.folder / MADE_BY) as temporary:
                temporary.write_text(json.dumps(self._facts.to_dict(), indent=2) + "\n", encoding="utf-8")
        self._write_part(self._next, rows)
        self._enter(self._next, rows.names, rows.digests)
        self._next += 1

    def drop(self, name: str) -> None:
        """Forget the row of an item whose content is now another and cannot be encoded."""
        _, part = self._latest.pop(name)
        self._stale.setdefault(part, set()).add(name)

    def tidy(self) -> None:
        """Take the rows that later ones replace out of their parts."""
        for number in sorted(self._stale):
            names = self._stale.pop(number)
            rows, _ = self._format.read(self._path(number))
            kept = [i for i, name in enumerate(rows.names) if name not in names]
            if kept:
                self._write_part(number, _chosen(rows, kept))
            else:
                self._path(number).unlink()

    def read(self) -> Iterator[Rows]:
        """The latest row of each name, part by part."""
        for number, path in self._paths():
            rows, _ = self._format.read(path)
            kept = [i for i, name in enumerate(rows.names) if self._latest.get(name, ("", -1))[1] == number]
            yield rows if len(kept) == len(rows) else _chosen(rows, kept)

    def _write_part(self, number: int, rows: Rows) -> None:
        with replacing(self._path(number)) as temporary, temporary.open("wb") as file:
            self._format.write(file, rows, self._facts)

    def _take(self, number: int, path: Path) -> None:
        self._next = max(self._next, number + 1)
        try:
            names, digests = self._format.read_digests(path)
        except DataError:  # written whole, so the disk has damaged it
            aside = path.with_name(f"_damaged-{path.name}")
            path.rename(aside)
            self.damaged.append(str(aside))
        else:
            self._enter(number, names, digests)

    def _enter(self, number: int, names: list[str], digests: list[str]) -> None:
        for name, digest in zip(names, digests, strict=True):
            if name in self._latest:
                self._stale.setdefault(self._latest[name][1], set()).add(name)
            self._latest[name] = (digest, number)

    def _check_facts(self) -> None:
        path = self.folder / MADE_BY
        if not path.exists():
            check_folder(self.folder)
            return
        try:
            facts = Facts.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OutputError(
                f"{path} cannot be read, so nobody knows what made the vectors beside it: {error}"
            ) from error
        self._facts.check_same(facts, self.folder)

    def _paths(self) -> list[tuple[int, Path]]:
        found = []
        for path in self.folder.glob(f"part-*{self._format.suffix}"):
            match = _PART.fullmatch(path.name)
            if match:
                found.append((int(match[1]), path))
        return sorted(found)

    def _path(self, number: int) -> Path:
        return self.folder / f"part-{number:06}{self._format.suffix}"


def check_folder(folder: Path) -> None:
    """Refuse a folder that has something in it and says of no making.

    Raises:
        OutputError: naming one of the strangers.
    """
    if folder.is_dir() and not (folder / MADE_BY).exists():
        strangers = sorted(path.name for path in folder.iterdir() if not path.name.startswith(("_", ".")))
        if strangers:
            raise OutputError(
                f"{folder} is a folder that `oneclip embed` did not make: {strangers[0]} is in it; "
                "name one that is empty or not there"
            )


def _chosen(rows: Rows, indices: list[int]) -> Rows:
    return Rows([rows.names[i] for i in indices], [rows.digests[i] for i in indices], rows.vectors[indices])
