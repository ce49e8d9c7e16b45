"""A camera's raw file in small: a DNG of noise, with or without a preview."""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import Image

_TYPES = {1: "B", 3: "H", 4: "I", 5: "II", 10: "ii"}  # TIFF's types of values, as of `struct`


class _Tiff:
    """Bytes that entries point into."""

    def __init__(self) -> None:
        self.content = bytearray(b"II*\0\0\0\0\0")

    def put(self, data: bytes) -> int:
        """Append; gives where."""
        self.content += b"\0" * (len(self.content) % 2)
        start = len(self.content)
        self.content += data
        return start

    def directory(self, entries: dict[int, tuple[int, list[object] | bytes]]) -> int:
        """Append a directory of {tag: (type, values)}; gives where."""
        rows = []
        for tag, (kind, values) in sorted(entries.items()):
            if isinstance(values, bytes):
                data = values
            else:
                flat = [one for value in values for one in (value if isinstance(value, tuple) else (value,))]
                data = struct.pack(f"<{len(flat)}{_TYPES[kind][0]}", *flat)
            place = data.ljust(4, b"\0") if len(data) <= 4 else struct.pack("<I", self.put(data))
            rows.append(struct.pack("<HHI", tag, kind, len(values)) + place)
        return self.put(struct.pack("<H", len(rows)) + b"".join(rows) + bytes(4))


def dng(preview: Image.Image | None, orientation: int = 1, size: tuple[int, int] = (128, 96)) -> bytes:
    """A raw file of a sensor of (width, height) pixels that all see the same, with a JPEG preview."""
    width, height = size
    file = _Tiff()
    sensor = np.full((height, width), 2000, "<u2").tobytes()
    entries: dict[int, tuple[int, list[object] | bytes]] = {
        254: (4, [0]), 256: (4, [width]), 257: (4, [height]), 258: (3, [16]), 259: (3, [1]), 262: (3, [32803]),
        271: (2, b"Test\0"), 272: (2, b"Camera\0"), 273: (4, [file.put(sensor)]), 274: (3, [orientation]),
        277: (3, [1]), 278: (4, [height]), 279: (4, [len(sensor)]), 284: (3, [1]), 33421: (3, [2, 2]),
        33422: (1, [0, 1, 1, 2]), 50706: (1, [1, 4, 0, 0]), 50708: (2, b"Test Camera\0"), 50714: (3, [500]),
        50717: (4, [4095]), 50721: (10, [(int(i % 4 == 0), 1) for i in range(9)]),
        50728: (5, [(1, 1)] * 3), 50778: (3, [21]),
    }  # fmt: skip
    if preview is not None:
        stream = io.BytesIO()
        preview.save(stream, "JPEG", quality=95)
        content = stream.getvalue()
        below = file.directory({
            254: (4, [1]), 256: (4, [preview.width]), 257: (4, [preview.height]), 258: (3, [8, 8, 8]),
            259: (3, [7]), 262: (3, [6]), 273: (4, [file.put(content)]), 277: (3, [3]), 278: (4, [preview.height]),
            279: (4, [len(content)]),
        })  # fmt: skip
        entries[330] = (4, [below])
    file.content[4:8] = struct.pack("<I", file.directory(entries))
    return bytes(file.content)
