"""The size of a JPEG XL image from its first bytes (ISO/IEC 18181-1, SizeHeader): its reader decodes when it opens."""

from __future__ import annotations

import struct
from typing import BinaryIO

CODE_STREAM, CONTAINER = b"\xff\x0a", b"\0\0\0\x0cJXL "
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))  # of width to height
_MOST_BOXES = 1000  # before the code stream
_LENGTHS = (9, 13, 18, 30)  # bits of an edge


def jpeg_xl_size(stream: BinaryIO) -> tuple[int, int] | None:
    """(width, height) in pixels, before an orientation is applied; None if this is no JPEG XL, or cut short."""
    try:
        start = _code_stream(stream)
        if start is None:
            return None
        stream.seek(start + 2)
        return _size(int.from_bytes(stream.read(12), "little"))
    except struct.error:
        return None


def _code_stream(stream: BinaryIO) -> int | None:
    """Where the code stream begins."""
    stream.seek(0)
    head = stream.read(8)
    if head[:2] == CODE_STREAM:
        return 0
    if head != CONTAINER:
        return None
    place = 0
    for _ in range(_MOST_BOXES):
        stream.seek(place)
        length, kind = struct.unpack(">I4s", stream.read(8))
        inside = 8
        if length == 1:
            (length,) = struct.unpack(">Q", stream.read(8))
            inside = 16
        if kind in (b"jxlc", b"jxlp"):  # the latter is a part of it, with a number before
            return place + inside + (4 if kind == b"jxlp" else 0)
        if length < inside:
            return None
        place += length
    return None


def _size(bits: int) -> tuple[int, int]:
    def take(count: int) -> int:
        nonlocal bits
        value = bits & ((1 << count) - 1)
        bits >>= count
        return value

    def edge() -> int:
        return 8 * (take(5) + 1) if is_small else take(_LENGTHS[take(2)]) + 1

    is_small = take(1)
    height = edge()
    ratio = take(3)
    if not ratio:
        return edge(), height
    across, down = _RATIOS[ratio - 1]
    return height * across // down, height
