"""Folder of numbered part files: rows that are safe on disk if the program is interrupted.

A part is written atomically and not changed while a run adds others. An interruption loses only the rows that were not
yet written.
"""

from __future__ import annotations

import io
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import PurePath
from typing import TYPE_CHECKING

from oneclip.embed.folders import OutputFolder
from oneclip.embed.formats import OutputFormat, get_format
from oneclip.embed.items import FileStamp
from oneclip.embed.rows import EmbeddingMetadata, EmbeddingRows
from oneclip.errors import ConfigError, DataError, MissingExtraError, OutputError

if TYPE_CHECKING:
    from oneclip.encoder import Features

METADATA_FILE = "_made_by.json"  # readers of Parquet folders ignore names that begin with _ or .
DAMAGED_PREFIX = "_damaged-"
MAX_CACHED_PARTS = 3  # of renamed content; it is looked up nearly in the order of the parts
_PART = re.compile(r"part-(\d{6,})\.\w+")


class PartFiles:
    """Part files in a folder, with an index of the latest row of each name.

    Args:
        folder: that contains them.
        format: of the parts.
        metadata: what makes the embeddings of this run.

    Attributes:
        damaged: parts that could not be read; they were renamed, and their rows will be encoded again.

    Raises:
        OutputError: if the existing parts were made by another model, or in another format.
    """

    def __init__(self, folder: OutputFolder, format: OutputFormat, metadata: EmbeddingMetadata) -> None:
        self.folder, self._format, self._metadata = folder, format, metadata
        self.damaged: list[str] = []
        self._latest: dict[str, tuple[str, int]] = {}  # name to digest and part
        self._stamps: dict[str, FileStamp] = {}
        self._by_content: dict[
            str, tuple[int, int]
        ] = {}  # digest to part and row index, also of replaced rows
        self._stale: dict[int, set[str]] = {}  # parts with rows that a later part replaces
        self._restamped: set[int] = set()  # parts with rows of files that only have a new time
        self._recent: OrderedDict[int, EmbeddingRows] = OrderedDict()  # recently read parts
        self._lock = threading.Lock()
        self._next = 0
        names = folder.names()
        self._has_metadata = METADATA_FILE in names
        self._check_metadata(names)
        others = [n for n in names if _PART.fullmatch(n) and not n.endswith(format.suffix)]
        if others:  # their rows would be duplicated
            raise OutputError(
                f"{folder} contains parts of another format ({others[0]}), not {format.suffix}; choose that one "
                "with --parts, choose another output, or use --overwrite to replace it"
            )
        for name in names:
            if name.startswith(".") and name.endswith(".tmp"):  # of a run that was killed while writing
                folder.remove(name)
        for number in self._numbers(names):
            self._load_part(number)

    def __len__(self) -> int:
        return len(self._latest)

    def digest(self, name: str) -> str | None:
        """Return the content hash of the row with this name, or None."""
        digest, _ = self._latest.get(name, (None, 0))
        return digest

    def digests(self) -> Iterator[tuple[str, str]]:
        """Return names and content hashes of all rows."""
        return ((name, digest) for name, (digest, _) in self._latest.items())

    def stamp(self, name: str) -> FileStamp | None:
        """Return the recorded size and modification time of the file of a row."""
        return self._stamps.get(name)

    def restamp(self, name: str, stamp: FileStamp) -> None:
        """Record a new size and modification time for a file whose content is unchanged."""
        self._stamps[name] = stamp
        self._restamped.add(self._latest[name][1])

    def vector(self, digest: str) -> Features | None:
        """Return the embedding (D,) of content with this hash under any name. Thread-safe."""
        if digest not in self._by_content:
            return None
        number, index = self._by_content[digest]
        with self._lock:
            if number not in self._recent:
                try:
                    self._recent[number] = self._read(number)
                except DataError:  # damaged since it was written: the item is encoded again
                    return None
            self._recent.move_to_end(number)
            while len(self._recent) > MAX_CACHED_PARTS:
                self._recent.popitem(last=False)
            found: Features = self._recent[number].vectors[index].astype("f4")
            return found

    def write(self, rows: EmbeddingRows) -> None:
        """Write one more part.

        Raises:
            OutputError: if it cannot be written; other parts are untouched.
        """
        if not self._has_metadata:
            self._write_metadata()
        self._write_part(self._next, rows)
        self._index_rows(self._next, rows.names, rows.digests, rows.stamps)
        self._next += 1

    def drop(self, name: str) -> None:
        """Drop the row of an item whose content has changed and can no longer be encoded."""
        self._stamps.pop(name, None)
        _, part = self._latest.pop(name)
        self._stale.setdefault(part, set()).add(name)

    def compact(self) -> None:
        """Rewrite parts without the rows that later parts replace."""
        for number in sorted(self._stale.keys() | self._restamped):
            names = self._stale.pop(number, set())
            self._restamped.discard(number)
            rows = self._read(number)
            kept = [i for i, name in enumerate(rows.names) if name not in names]
            if kept:
                rows = rows.select(kept)
                stamps = [self._stamps.get(name) for name in rows.names]
                self._write_part(number, EmbeddingRows(rows.names, rows.digests, rows.vectors, stamps))
            else:
                self.folder.remove(self._name(number))

    def read(self) -> Iterator[EmbeddingRows]:
        """Yield the latest row of each name, part by part."""
        for number in self._numbers(self.folder.names()):
            rows = self._read(number)
            kept = [i for i, name in enumerate(rows.names) if self._latest.get(name, ("", -1))[1] == number]
            yield rows if len(kept) == len(rows) else rows.select(kept)

    def _write_part(self, number: int, rows: EmbeddingRows) -> None:
        self.folder.write(self._name(number), partial(self._format.write, rows=rows, metadata=self._metadata))

    def _read(self, number: int) -> EmbeddingRows:
        name = self._name(number)
        with self.folder.open(name) as file:
            rows, _ = self._format.read(file, self.folder.location(name))
        return rows

    def _load_part(self, number: int) -> None:
        self._next = max(self._next, number + 1)
        name = self._name(number)
        try:
            with self.folder.open(name) as file:
                names, digests, stamps = self._format.read_digests(file, self.folder.location(name))
        except DataError:  # parts are written atomically, so the disk has damaged it
            self.folder.rename(name, DAMAGED_PREFIX + name)
            self.damaged.append(self.folder.location(DAMAGED_PREFIX + name))
        else:
            self._index_rows(number, names, digests, stamps)

    def _index_rows(
        self, number: int, names: list[str], digests: list[str], stamps: list[FileStamp | None]
    ) -> None:
        for index, (name, digest, stamp) in enumerate(zip(names, digests, stamps, strict=True)):
            if name in self._latest:
                self._stale.setdefault(self._latest[name][1], set()).add(name)
                self._stamps.pop(name, None)
            self._latest[name] = (digest, number)
            self._by_content[digest] = (number, index)
            if stamp is not None:
                self._stamps[name] = stamp

    def _write_metadata(self) -> None:
        metadata = (json.dumps(self._metadata.to_dict(), indent=2) + "\n").encode()
        self.folder.write(METADATA_FILE, lambda file: file.write(metadata))
        self._has_metadata = True

    def _check_metadata(self, names: list[str]) -> None:
        if not self._has_metadata:
            of_parts = check_folder(self.folder, names)
            if of_parts is not None:
                self._metadata.require_same(of_parts, self.folder)
                self._write_metadata()
            return
        location = self.folder.location(METADATA_FILE)
        try:
            with self.folder.open(METADATA_FILE) as file:
                metadata = EmbeddingMetadata.from_dict(json.load(io.TextIOWrapper(file, "utf-8")))
        except (ValueError, KeyError, RecursionError, TypeError) as error:
            raise OutputError(
                f"{location} cannot be read, so the model of the existing embeddings is unknown: {error}"
            ) from error
        self._metadata.require_same(metadata, self.folder)

    def _numbers(self, names: list[str]) -> list[int]:
        """Return the sorted numbers of the parts among these files."""
        found = (_PART.fullmatch(name) for name in names if name.endswith(self._format.suffix))
        return sorted(int(match[1]) for match in found if match)

    def _name(self, number: int) -> str:
        return f"part-{number:06}{self._format.suffix}"


def remove_parts(folder: OutputFolder) -> None:
    """Remove all parts, then the metadata: without metadata, remaining parts would block the next run."""
    names = folder.names()
    for name in names:
        if _PART.fullmatch(name.removeprefix(DAMAGED_PREFIX)):
            folder.remove(name)
    if METADATA_FILE in names:
        folder.remove(METADATA_FILE)


def check_folder(folder: OutputFolder, names: list[str]) -> EmbeddingMetadata | None:
    """Check that a folder is empty or was written by `oneclip embed`.

    Args:
        folder: the folder.
        names: of the files in it.

    Returns:
        What made its parts, if the file that says so is missing, because an earlier version was killed while it
        removed them; otherwise None.

    Raises:
        OutputError: naming a file that does not belong to it.
    """
    others = [name for name in names if not name.startswith(("_", "."))]
    if not others or METADATA_FILE in names:
        return None
    strangers = [name for name in others if not _PART.fullmatch(name)]
    for name in others if not strangers else ():
        with suppress(DataError, ConfigError, MissingExtraError), folder.open(name) as file:
            return get_format(PurePath(name).suffix).read(file, folder.location(name))[1]
    raise OutputError(
        f"{folder} was not written by `oneclip embed`: it contains {(strangers or others)[0]}; "
        "choose another output, or remove the folder if you do not need it"
    )
