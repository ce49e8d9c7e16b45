"""Rendering of SVG text and files to 64-pixel arrays, in several processes, resumable.

One-colour images become an alpha map (64, 64), colour images straight (not premultiplied) RGBA
(64, 64, 4).
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from recipes.pocket.clipart import ROOT
from recipes.pocket.source_images import SourceImage

SIZE = 64
CHUNK = 2048
Array = NDArray[np.uint8]


def render_all(
    images: list[SourceImage], folders: dict[str, Path], chunks: Path, workers: int = 2
) -> Iterator[tuple[int, Path]]:
    """Draw images of one kind in chunks, skipping chunks that are already on disk.

    Args:
        images: all of one kind.
        folders: where the packages are unpacked.
        chunks: folder of the finished chunks, one npy file each.
        workers: processes.

    Yields:
        (number of images drawn, file) for each chunk, in order.
    """
    chunks.mkdir(parents=True, exist_ok=True)
    parts = [
        part[start : start + CHUNK]
        for part in (list(group) for _, group in groupby(images, key=lambda image: image.set))
        for start in range(0, len(part), CHUNK)
    ]
    files = [chunks / f"{part[0].kind}-{_digest(part)}.npy" for part in parts]
    with ProcessPoolExecutor(workers) as pool:
        jobs = [
            None if file.exists() else pool.submit(_render_chunk, part, folders, file)
            for part, file in zip(parts, files, strict=True)
        ]
        for part, file, job in zip(parts, files, jobs, strict=True):
            if job is not None:
                job.result()
            yield len(part), file


def _digest(part: Iterable[SourceImage]) -> str:
    text = "\n".join(f"{image.id} {image.turn} {len(image.svg)}" for image in part)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _render_chunk(part: list[SourceImage], folders: dict[str, Path], file: Path) -> None:
    pixels = np.stack([render(image, folders) for image in part])
    half = file.with_suffix(".part")
    with half.open("wb") as stream:
        np.save(stream, pixels)
    half.rename(file)


def render(image: SourceImage, folders: dict[str, Path]) -> Array:
    """Draw an image; it is blank if it cannot be drawn (and dropped later).

    Returns:
        (64, 64) alpha for "mono", (64, 64, 4) straight RGBA for "colour"; uint8.
    """
    try:
        drawing = _draw(image, folders)
    except (ValueError, OSError, MemoryError):
        drawing = Image.new("RGBA", (SIZE, SIZE))
    flip_h, flip_v, turns = image.turn
    pixels = np.asarray(drawing, dtype=np.uint8)
    pixels = pixels[:, ::-1] if flip_h else pixels
    pixels = pixels[::-1] if flip_v else pixels
    pixels = np.rot90(pixels, -turns) if turns else pixels
    return np.ascontiguousarray(pixels[..., 3] if image.kind == "mono" else pixels)


def _draw(image: SourceImage, folders: dict[str, Path]) -> Image.Image:
    if image.set == "fluent3d":
        return _fit(Image.open(folders["fluent3d"] / "assets" / image.svg).convert("RGBA"))
    if image.set == "openclipart":
        return _fit(_draw_file(folders["openclipart"] / ROOT / image.svg))
    return _draw_svg(image.svg)


def _draw_svg(svg: str) -> Image.Image:
    import resvg_py

    return Image.open(io.BytesIO(resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True)))


def _draw_file(path: Path) -> Image.Image:
    """Draw a clip art at about 128 pixels with resvg, or with cairo if resvg refuses its physical size."""
    import resvg_py

    try:
        png = resvg_py.svg_to_bytes(svg_path=str(path), skip_system_fonts=True, width=2 * SIZE)
    except ValueError:
        png = _draw_with_cairo(path)
    return Image.open(io.BytesIO(png)).convert("RGBA")


def _draw_with_cairo(path: Path) -> bytes:
    import cairosvg  # type: ignore[import-untyped]

    text = re.sub(
        r"<!DOCTYPE.*?(\[.*?\])?\s*>", "", path.read_text("utf-8", errors="replace"), count=1, flags=re.S
    )
    try:
        return bytes(cairosvg.svg2png(bytestring=text.encode(), output_width=4 * SIZE))
    except Exception as error:  # cairosvg raises whatever its parsers raise
        raise ValueError(f"{path.name}: {error}") from error


def _fit(image: Image.Image) -> Image.Image:
    """Crop to the drawing, centre it in a square, and scale it to 64 pixels with premultiplied colours."""
    box = image.getchannel("A").point(lambda value: 255 if value > 8 else 0).getbbox()
    if box is None:
        return Image.new("RGBA", (SIZE, SIZE))
    image = image.crop(box)
    side = max(image.size) + max(2, max(image.size) // 16)
    square = Image.new("RGBA", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    resample = Image.Resampling.BOX if side > SIZE else Image.Resampling.BICUBIC
    return square.convert("RGBa").resize((SIZE, SIZE), resample).convert("RGBA")
