"""Read the entries of a zip file, after checking that it is neither damaged nor hostile."""

from __future__ import annotations

import io
import re
import struct
import zipfile
from typing import Any, BinaryIO

from oneclip.checkpoint.readers.read_errors import MalformedFile

MAX_UNPACK_RATIO = 32  # unpacked to packed bytes of a whole file; weights hardly compress
MAX_DIRECTORY_BYTES = 2**25  # of the list of entries: enough for some hundred thousand

_END, _END_LAYOUT = b"PK\x05\x06", "<4s4H2LH"
_LOCATOR, _LOCATOR_LAYOUT = b"PK\x06\x07", "<4sLQL"
_END64, _END64_LAYOUT = b"PK\x06\x06", "<4sQ2H2L4Q"
_MAX_COMMENT_BYTES = 2**16
_OUTSIDE_PATH = re.compile(r"^([/\\]|[A-Za-z]:[/\\])|(^|[/\\])\.\.([/\\]|$)")


class CheckedZip:
    """Zip file, open for reading.

    Args:
        file: open for reading; it is closed with this object.

    Raises:
        MalformedFile: for entries that overlap, have equal names or wrong sizes, or unpack to too many bytes.
        zipfile.BadZipFile: if it is damaged.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        try:
            self._size = file.seek(0, io.SEEK_END)
            listed = _directory_size(file, self._size)
            if listed > MAX_DIRECTORY_BYTES:
                raise MalformedFile(
                    f"its list of entries has {listed:,} bytes; expected at most {MAX_DIRECTORY_BYTES:,}"
                )
            self._zip = zipfile.ZipFile(file)
            self.entries = {entry.filename: entry for entry in self._zip.infolist()}
            self._check()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self, name: str, max_bytes: int | None = None) -> bytearray:
        """Read an entry of at most `max_bytes`, and verify its checksum."""
        size = self._entry(name).file_size
        if max_bytes is not None and size > max_bytes:
            raise MalformedFile(f"{name} has {size:,} bytes; expected at most {max_bytes:,}")
        data = bytearray(size)
        view, filled = memoryview(data), 0
        with self._zip.open(name) as file:
            while filled < len(data) and (chunk := file.read(len(data) - filled)):
                view[filled : filled + len(chunk)] = chunk
                filled += len(chunk)
        if filled < len(data):
            raise MalformedFile(f"{name} ends after {filled:,} of {len(data):,} bytes")
        return data

    def start(self, name: str, count: int) -> bytes:
        """Read at most the first `count` bytes of an entry."""
        self._entry(name)
        with self._zip.open(name) as file:
            return file.read(count)

    def _entry(self, name: str) -> zipfile.ZipInfo:
        entry = self.entries.get(name)
        if entry is None:
            raise MalformedFile(f"it has no {name}")
        return entry

    def _check(self) -> None:
        total = self._size
        entries = self._zip.infolist()
        if len(entries) != len(self.entries):
            raise MalformedFile("it has two entries of the same name")
        if sum(entry.compress_size for entry in entries) > total:
            raise MalformedFile(
                "its entries overlap, or are longer than the file: it is truncated or hostile"
            )
        unpacked = sum(entry.file_size for entry in entries)
        if unpacked > MAX_UNPACK_RATIO * total + 2**20:
            raise MalformedFile(
                f"it would unpack to {unpacked:,} bytes from {total:,}, which is more than weights need"
            )
        for entry in entries:
            if _OUTSIDE_PATH.search(entry.filename):
                raise MalformedFile(f"its entry {entry.filename[:80]!r} is a path outside the archive")
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise MalformedFile(f"{entry.filename[:80]} has an unsupported compression method")
            if entry.compress_type == zipfile.ZIP_STORED and entry.compress_size != entry.file_size:
                raise MalformedFile(f"the sizes of {entry.filename} contradict each other")


def _directory_size(file: BinaryIO, total: int) -> int:
    """Return the size of the list of entries, according to the file; 0 if there is none, which `zipfile` reports."""
    start = max(0, total - _MAX_COMMENT_BYTES - struct.calcsize(_END_LAYOUT))
    file.seek(start)
    tail = file.read()
    plain = len(tail) - struct.calcsize(_END_LAYOUT)  # its offset if the file has no comment
    at = plain if plain >= 0 and tail[plain : plain + 4] == _END else tail.rfind(_END)
    if at < 0 or len(tail) - at < struct.calcsize(_END_LAYOUT):
        return 0
    size = int(struct.unpack_from(_END_LAYOUT, tail, at)[5])
    locator_at = start + at - struct.calcsize(_LOCATOR_LAYOUT)
    locator = _unpack_at(file, locator_at, _LOCATOR_LAYOUT)
    if locator is None or locator[0] != _LOCATOR:
        return size
    # `zipfile` searches before the locator; later versions use the offset in the locator
    offsets = locator_at - struct.calcsize(_END64_LAYOUT), locator[2]
    ends = [
        end for offset in offsets if (end := _unpack_at(file, offset, _END64_LAYOUT)) and end[0] == _END64
    ]
    return max([end[8] for end in ends], default=size)


def _unpack_at(file: BinaryIO, offset: int, layout: str) -> tuple[Any, ...] | None:
    """Read a structure at an offset of a file; None if the file is too short."""
    if not 0 <= offset < 2**63:
        return None
    file.seek(offset)
    data = file.read(struct.calcsize(layout))
    return struct.unpack(layout, data) if len(data) == struct.calcsize(layout) else None
