"""Read the entries of a zip file, after checking it for what no sound archive contains."""

from __future__ import annotations

import io
import re
import struct
import zipfile
from typing import Any, BinaryIO

from oneclip.checkpoint.readers.read_errors import Unsound

LARGEST_RATIO = 32  # of unpacked to packed bytes in a whole file; weights hardly compress at all
LARGEST_DIRECTORY = 2**25  # bytes of the list of entries: room for some hundred thousand

_END, _END_LAYOUT = b"PK\x05\x06", "<4s4H2LH"
_LOCATOR, _LOCATOR_LAYOUT = b"PK\x06\x07", "<4sLQL"
_END64, _END64_LAYOUT = b"PK\x06\x06", "<4sQ2H2L4Q"
_MOST_COMMENT = 2**16
_LEADS_ELSEWHERE = re.compile(r"^([/\\]|[A-Za-z]:[/\\])|(^|[/\\])\.\.([/\\]|$)")


class Zip:
    """A zip file, open for reading.

    Args:
        file: open for reading, and closed with this.

    Raises:
        Unsound: for entries that overlap, share a name, lie about their size or unpack to far too much.
        zipfile.BadZipFile: if it is damaged.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        try:
            self._size = file.seek(0, io.SEEK_END)
            listed = _directory_size(file, self._size)
            if listed > LARGEST_DIRECTORY:
                raise Unsound(f"its list of entries has {listed:,} bytes, which no checkpoint needs")
            self._zip = zipfile.ZipFile(file)
            self.entries = {entry.filename: entry for entry in self._zip.infolist()}
            self._check()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self, name: str, most: int | None = None) -> bytearray:
        """An entry as a whole, if it has not more bytes than `most`; its checksum is compared."""
        size = self._entry(name).file_size
        if most is not None and size > most:
            raise Unsound(f"{name} has {size:,} bytes, which no checkpoint needs")
        data = bytearray(size)
        view, filled = memoryview(data), 0
        with self._zip.open(name) as file:
            while filled < len(data) and (chunk := file.read(len(data) - filled)):
                view[filled : filled + len(chunk)] = chunk
                filled += len(chunk)
        if filled < len(data):
            raise Unsound(f"{name} ends after {filled:,} of {len(data):,} bytes")
        return data

    def start(self, name: str, count: int) -> bytes:
        """The first bytes of an entry, at most so many."""
        self._entry(name)
        with self._zip.open(name) as file:
            return file.read(count)

    def _entry(self, name: str) -> zipfile.ZipInfo:
        entry = self.entries.get(name)
        if entry is None:
            raise Unsound(f"it has no {name}")
        return entry

    def _check(self) -> None:
        total = self._size
        entries = self._zip.infolist()
        if len(entries) != len(self.entries):
            raise Unsound("it holds two entries of the same name")
        if sum(entry.compress_size for entry in entries) > total:
            raise Unsound(
                "its entries overlap, or are longer than the file: it is truncated, or made to do harm"
            )
        unpacked = sum(entry.file_size for entry in entries)
        if unpacked > LARGEST_RATIO * total + 2**20:
            raise Unsound(f"it would unpack to {unpacked:,} bytes from {total:,}, which weights do not")
        for entry in entries:
            if _LEADS_ELSEWHERE.search(entry.filename):
                raise Unsound(f"its entry {entry.filename[:80]!r} leads out of it, which no honest name does")
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise Unsound(f"{entry.filename[:80]} is compressed in a way that no checkpoint is")
            if entry.compress_type == zipfile.ZIP_STORED and entry.compress_size != entry.file_size:
                raise Unsound(f"the sizes of {entry.filename} contradict each other")


def _directory_size(file: BinaryIO, total: int) -> int:
    """How long the list of entries says it is; 0 where there is none, which `zipfile` then tells."""
    start = max(0, total - _MOST_COMMENT - struct.calcsize(_END_LAYOUT))
    file.seek(start)
    tail = file.read()
    plain = len(tail) - struct.calcsize(_END_LAYOUT)  # where it lies without a comment
    at = plain if plain >= 0 and tail[plain : plain + 4] == _END else tail.rfind(_END)
    if at < 0 or len(tail) - at < struct.calcsize(_END_LAYOUT):
        return 0
    size = int(struct.unpack_from(_END_LAYOUT, tail, at)[5])
    locator_at = start + at - struct.calcsize(_LOCATOR_LAYOUT)
    locator = _part(file, locator_at, _LOCATOR_LAYOUT)
    if locator is None or locator[0] != _LOCATOR:
        return size
    # `zipfile` looks right before the locator, or, in later versions, where the locator says
    places = locator_at - struct.calcsize(_END64_LAYOUT), locator[2]
    ends = [end for place in places if (end := _part(file, place, _END64_LAYOUT)) and end[0] == _END64]
    return max([end[8] for end in ends], default=size)


def _part(file: BinaryIO, place: int, layout: str) -> tuple[Any, ...] | None:
    """What lies at a place of a file, if it is as long as that."""
    if not 0 <= place < 2**63:
        return None
    file.seek(place)
    data = file.read(struct.calcsize(layout))
    return struct.unpack(layout, data) if len(data) == struct.calcsize(layout) else None
