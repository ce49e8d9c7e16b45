"""Create tar files and images for tests."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def png(number: int, size: tuple[int, int] = (12, 10), format: str = "PNG") -> bytes:
    """Return an image file with random pixels from a seed."""
    pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format)
    return stream.getvalue()


def half_jpeg(number: int) -> bytes:
    """Return a JPEG without the second half of its bytes."""
    whole = png(number, (64, 64), "JPEG")
    return whole[: len(whole) // 2]


def members(count: int, first: int = 0, size: int | None = None) -> dict[str, bytes]:
    """Return images `0000.png` and captions `0000.txt` ("caption 0"); with `size`, that many bytes for each image."""
    files: dict[str, bytes] = {}
    for number in range(first, first + count):
        files[f"{number:04}.png"] = png(number) if size is None else b"p" * size
        files[f"{number:04}.txt"] = f"caption {number}\n".encode()
    return files


def tar(
    files: Mapping[str, bytes], *, more: Iterable[tuple[str, bytes | str]] = (), mode: str = "w"
) -> bytes:
    """Return a tar of these files, and of `more` with repeated names or links ("target" symbolic, "=target" hard)."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in (*files.items(), *more):
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type = tarfile.LNKTYPE if content.startswith("=") else tarfile.SYMTYPE
                info.linkname = content.removeprefix("=")
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def write_tar(path: Path | str, files: Mapping[str, bytes], mode: str = "w") -> Path:
    """Write a tar of these files."""
    path = Path(path)
    path.write_bytes(tar(files, mode=mode))
    return path
