"""Repair PNG and JPEG files with damaged metadata or a missing end marker.

Only files that could not be decoded are repaired.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
END_OF_JPEG = b"\xff\xd9"
_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_SOS, _APP0, _APP1, _APP14, _APP15, _COMMENT = 0xDA, 0xE0, 0xE1, 0xEE, 0xEF, 0xFE  # markers of JPEG
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # markers of frame headers
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # a marker that cannot occur inside coded samples
_RESTARTS = range(0xD0, 0xD8)


def strip_metadata(data: bytes) -> bytes:
    """Remove everything from a PNG or JPEG but pixel data and the orientation."""
    if data.startswith(PNG):
        return PNG + b"".join(_needed_png_chunks(data))
    return data[:2] + b"".join(_needed_jpeg_segments(data))


def append_end_marker(data: bytes) -> bytes:
    """Add the end marker to a JPEG that lacks it."""
    return data.removesuffix(b"\xff") + END_OF_JPEG


def jpegs_with_random_endings(data: bytes) -> Iterator[bytes]:
    """Continue a JPEG without an end with different random bits. If no sample is missing, all give the same image."""
    for first_bits in (7, 4, 1, 2, 3, 5, 6, 0):
        noise = bytes((first_bits << 5 | 0x0A, 0x5A, 0xC3, 0x71)) * 16
        restarts = b"".join(bytes((0xFF, marker)) + noise for marker in _RESTARTS)
        yield data.removesuffix(b"\xff") + noise + restarts + END_OF_JPEG


def has_all_scans(data: bytes) -> bool:
    """Report whether the scans of a JPEG contain every coefficient of every component to its last bit."""
    missing: dict[int, set[int]] = {}
    for marker, start, end in _jpeg_segments(data):
        body = data[start + 4 : end]
        if marker in _FRAMES:
            missing = {body[6 + 3 * i]: set(range(64)) for i in range(body[5])}
        elif marker == _SOS:
            count = body[0]
            first, last, precision = body[1 + 2 * count : 4 + 2 * count]
            if precision & 15 == 0:
                for i in range(count):
                    missing.get(body[1 + 2 * i], set()).difference_update(range(first, last + 1))
    return bool(missing) and not any(missing.values())


def _needed_png_chunks(data: bytes) -> Iterator[bytes]:
    place = len(PNG)
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        chunk = data[place : place + 12 + length]
        is_sound = len(chunk) == 12 + length and chunk[-4:] == struct.pack(">I", zlib.crc32(chunk[4:-4]))
        if kind in _PIXEL_CHUNKS or (kind == b"eXIf" and is_sound):
            yield chunk
        place += 12 + length


def _needed_jpeg_segments(data: bytes) -> Iterator[bytes]:
    place = 2
    for marker, start, end in _jpeg_segments(data):
        segment, place = data[start:end], end
        is_kept = (
            (marker == _APP0 and segment[4:9] == b"JFIF\0" and len(segment) >= 18)
            or (marker == _APP1 and segment[4:10] == b"Exif\0\0")
            or (marker == _APP14 and segment[4:9] == b"Adobe" and len(segment) >= 16)
        )
        if is_kept or not (_APP0 <= marker <= _APP15 or marker == _COMMENT):
            yield segment
    yield data[place:]


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the segments of a JPEG: marker, start, end. A scan includes its coded samples."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] not in (0xD9, 0xFF):
        marker = data[place + 1]
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == _SOS:
            following = _NEXT_MARKER.search(data, end)
            end = following.start() if following else len(data)
        yield marker, place, end
        place = end
