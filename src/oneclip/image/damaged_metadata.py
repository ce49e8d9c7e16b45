"""PNG and JPEG files of which only metadata is damaged, or only the end is missing, to files that decode.

Works on the bytes of a file that was refused; files that decode never come here.
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
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # markers of a frame's header
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # none of those that stand in coded samples
_RESTARTS = range(0xD0, 0xD8)


def without_metadata(data: bytes) -> bytes:
    """Leave out what says nothing of the pixels of a PNG or JPEG, but for an orientation."""
    if data.startswith(PNG):
        return PNG + b"".join(_chunks(data))
    return data[:2] + b"".join(_segments(data))


def ended_jpeg(data: bytes) -> bytes:
    """A JPEG without its end to one with an end."""
    return data.removesuffix(b"\xff") + END_OF_JPEG


def continued_jpegs(data: bytes) -> Iterator[bytes]:
    """A JPEG without its end to others that go on with other bits: they look the same where no sample is missing."""
    for first_bits in (7, 4, 1, 2, 3, 5, 6, 0):
        noise = bytes((first_bits << 5 | 0x0A, 0x5A, 0xC3, 0x71)) * 16
        restarts = b"".join(bytes((0xFF, marker)) + noise for marker in _RESTARTS)
        yield data.removesuffix(b"\xff") + noise + restarts + END_OF_JPEG


def has_all_scans(data: bytes) -> bool:
    """Whether the scans in a JPEG give every coefficient of every component to its last bit."""
    missing: dict[int, set[int]] = {}
    for marker, start, end in _markers(data):
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


def _chunks(data: bytes) -> Iterator[bytes]:
    place = len(PNG)
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        chunk = data[place : place + 12 + length]
        is_sound = len(chunk) == 12 + length and chunk[-4:] == struct.pack(">I", zlib.crc32(chunk[4:-4]))
        if kind in _PIXEL_CHUNKS or (kind == b"eXIf" and is_sound):
            yield chunk
        place += 12 + length


def _segments(data: bytes) -> Iterator[bytes]:
    place = 2
    for marker, start, end in _markers(data):
        segment, place = data[start:end], end
        is_kept = (
            (marker == _APP0 and segment[4:9] == b"JFIF\0" and len(segment) >= 18)
            or (marker == _APP1 and segment[4:10] == b"Exif\0\0")
            or (marker == _APP14 and segment[4:9] == b"Adobe" and len(segment) >= 16)
        )
        if is_kept or not (_APP0 <= marker <= _APP15 or marker == _COMMENT):
            yield segment
    yield data[place:]


def _markers(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Segments of a JPEG: the marker, where it begins, and where it ends, of a scan with its samples."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] not in (0xD9, 0xFF):
        marker = data[place + 1]
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == _SOS:
            following = _NEXT_MARKER.search(data, end)
            end = following.start() if following else len(data)
        yield marker, place, end
        place = end
