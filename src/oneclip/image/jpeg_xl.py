"""Read the size of a JPEG XL image from its header (ISO/IEC 18181-1, SizeHeader).

The reader of JPEG XL decodes the pixels when it opens a file, so the pixel limit is checked with this size first.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

CODE_STREAM, CONTAINER = b"\xff\x0a", b"\0\0\0\x0cJXL "
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))  # width to height
_MAX_BOXES = 1000  # before the code stream
_EDGE_BITS = (9, 13, 18, 30)


def jpeg_xl_size(stream: BinaryIO) -> tuple[int, int] | None:
    """Return (width, height) in pixels, without the orientation; None if this is not a complete JPEG XL header."""
    try:
        start = _code_stream_offset(stream)
        if start is None:
            return None
        stream.seek(start + 2)
        return _parse_size_header(int.from_bytes(stream.read(12), "little"))
    except struct.error:
        return None


def _code_stream_offset(stream: BinaryIO) -> int | None:
    stream.seek(0)
    head = stream.read(8)
    if head[:2] == CODE_STREAM:
        return 0
    if head != CONTAINER:
        return None
    place = 0
    for _ in range(_MAX_BOXES):
        stream.seek(place)
        length, kind = struct.unpack(">I4s", stream.read(8))
        inside = 8
        if length == 1:
            (length,) = struct.unpack(">Q", stream.read(8))
            inside = 16
        if kind in (b"jxlc", b"jxlp"):  # jxlp is a part of the stream, after a number
            return place + inside + (4 if kind == b"jxlp" else 0)
        if length < inside:
            return None
        place += length
    return None


def _parse_size_header(bits: int) -> tuple[int, int]:
    def take(count: int) -> int:
        nonlocal bits
        value = bits & ((1 << count) - 1)
        bits >>= count
        return value

    def edge() -> int:
        return 8 * (take(5) + 1) if is_small else take(_EDGE_BITS[take(2)]) + 1

    is_small = take(1)
    height = edge()
    ratio = take(3)
    if not ratio:
        return edge(), height
    across, down = _RATIOS[ratio - 1]
    return height * across // down, height
