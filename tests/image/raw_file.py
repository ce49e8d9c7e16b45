"""A small camera raw file: a DNG with or without a preview."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from tiff_file import Tiff


def dng(preview: Image.Image | None, orientation: int = 1, size: tuple[int, int] = (128, 96)) -> bytes:
    """Make a raw file of a sensor with (width, height) equal pixels, and a JPEG preview."""
    width, height = size
    file = Tiff()
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
    return file.finish(file.directory(entries))
