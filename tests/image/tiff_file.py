"""Writer of TIFF files of any depth and layout."""

from __future__ import annotations

import struct

import numpy as np

_TYPES = {1: "B", 3: "H", 4: "I", 5: "II", 10: "ii"}  # TIFF value types as formats of `struct`


class Tiff:
    """Content of a TIFF file under construction; `order` is "<" or ">"."""

    def __init__(self, order: str = "<") -> None:
        self.order = order
        self.content = bytearray(b"II*\0\0\0\0\0" if order == "<" else b"MM\0*\0\0\0\0")

    def put(self, data: bytes) -> int:
        """Append data and return its offset."""
        self.content += b"\0" * (len(self.content) % 2)
        start = len(self.content)
        self.content += data
        return start

    def directory(self, entries: dict[int, tuple[int, list[object] | bytes]]) -> int:
        """Append a directory of {tag: (type, values)} and return its offset."""
        rows = []
        for tag, (kind, values) in sorted(entries.items()):
            if isinstance(values, bytes):
                data = values
            else:
                flat = [one for value in values for one in (value if isinstance(value, tuple) else (value,))]
                data = struct.pack(f"{self.order}{len(flat)}{_TYPES[kind][0]}", *flat)
            place = data.ljust(4, b"\0") if len(data) <= 4 else struct.pack(f"{self.order}I", self.put(data))
            rows.append(struct.pack(f"{self.order}HHI", tag, kind, len(values)) + place)
        return self.put(struct.pack(f"{self.order}H", len(rows)) + b"".join(rows) + bytes(4))

    def finish(self, first: int) -> bytes:
        """Set the offset of the first directory and return the file."""
        self.content[4:8] = struct.pack(f"{self.order}I", first)
        return bytes(self.content)


def tiff(
    samples: np.ndarray,
    photometric: int,
    *,
    order: str = "<",
    separate: bool = False,
    bits: int = 0,
    strip: int = 1000,
    **tags: list[object],
) -> bytes:
    """Make an uncompressed file of (H, W, C) samples, in strips of `strip` rows; `bits` is 12 for packed samples."""
    height, width, channels = samples.shape
    planes = np.moveaxis(samples, -1, 0)[..., None] if separate else samples[None]
    file = Tiff(order)
    strips = []
    for plane in planes:
        for top in range(0, height, strip):
            rows = plane[top : top + strip]
            if bits == 12:
                pairs = rows.reshape(-1, 2).astype(np.uint32)
                packed = (pairs[:, 0] << 12 | pairs[:, 1]).astype(">u4").view(np.uint8).reshape(-1, 4)[:, 1:]
                strips.append(packed.tobytes())
            else:
                strips.append(rows.astype(rows.dtype.newbyteorder(order)).tobytes())
    places = [file.put(data) for data in strips]
    kind = {"u": 1, "i": 2, "f": 3}[samples.dtype.kind]
    entries: dict[int, tuple[int, list[object] | bytes]] = {
        256: (4, [width]), 257: (4, [height]), 258: (3, [bits or samples.itemsize * 8] * channels), 259: (3, [1]),
        262: (3, [photometric]), 273: (4, list(places)), 277: (3, [channels]), 278: (4, [min(strip, height)]),
        279: (4, [len(data) for data in strips]), 284: (3, [2 if separate else 1]), 339: (3, [kind] * channels),
    }  # fmt: skip
    entries |= {int(tag[1:]): (3, values) for tag, values in tags.items()}
    return file.finish(file.directory(entries))
