"""Draw heat maps over images, and save several side by side."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from oneclip.errors import ConfigError
from oneclip.hub.atomic import replace_file

COLORS = np.array([(60, 90, 230), (40, 190, 200), (250, 220, 60), (230, 40, 30)], np.float32)  # low to high
MARGIN = 8  # pixels
SHEET_WIDTH = 1600  # pixels; more maps continue in the next row
TILE_PIXELS = 512  # the longer side of an image in a sheet
LINE_HEIGHT = 24  # pixels


def colorize(share: NDArray[np.float32]) -> NDArray[np.float32]:
    """Map shares of the scale, 0 to 1, to colours: (...) to (..., 3), 0 to 255."""
    places = np.linspace(0, 1, len(COLORS))
    return np.stack([np.interp(share, places, channel) for channel in COLORS.T], axis=-1).astype(np.float32)


def blend(image: Image.Image, values: NDArray[np.float32], ceiling: float, opacity: float) -> Image.Image:
    """Draw values (H, W) over an image of that size; see `Maps.overlay`."""
    pixels = np.asarray(image.convert("RGB"), np.float32)
    outside = np.isnan(values)
    share = np.clip(np.where(outside, 0, values) / (ceiling or 1), 0, 1).astype(np.float32)
    weight = (opacity * share)[..., None]
    drawn = pixels * (1 - weight) + colorize(share) * weight
    drawn[outside] = pixels[outside].mean(axis=-1, keepdims=True) * 0.4
    return Image.fromarray(np.round(drawn).astype(np.uint8))


def image_format(path: str | os.PathLike[str]) -> str:
    """Return Pillow's name of the format that the ending of a path names.

    Raises:
        ConfigError: if Pillow does not write such files.
    """
    suffix = Path(path).suffix.lower()
    kind = Image.registered_extensions().get(suffix, "")
    if kind not in Image.SAVE:
        raise ConfigError(f"{path}: no image format has the ending {suffix!r}; use .png, .jpg or .webp")
    return kind


def save_sheet(
    path: str | os.PathLike[str], overlays: Iterable[Image.Image], captions: Sequence[str], ceiling: float
) -> None:
    """Write overlays side by side with their captions and one colour scale; see `Maps.save`."""
    kind = image_format(path)
    tiles = []
    for overlay in overlays:
        overlay.thumbnail((TILE_PIXELS, TILE_PIXELS))
        tiles.append(overlay)
    width = max(max(tile.width for tile in tiles), 160)
    height = max(tile.height for tile in tiles) + LINE_HEIGHT
    columns = max(1, min(len(tiles), (SHEET_WIDTH - MARGIN) // (width + MARGIN)))
    rows = -(-len(tiles) // columns)
    size = MARGIN + columns * (width + MARGIN), MARGIN + rows * (height + MARGIN) + LINE_HEIGHT + MARGIN
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for index, (tile, caption) in enumerate(zip(tiles, captions, strict=True)):
        left, top = MARGIN + index % columns * (width + MARGIN), MARGIN + index // columns * (height + MARGIN)
        draw.text((left, top), _fitted(caption, font, width), fill="black", font=font)
        sheet.paste(tile, (left, top + LINE_HEIGHT))
    _draw_scale(sheet, (MARGIN, size[1] - LINE_HEIGHT - MARGIN), ceiling, font)
    with replace_file(path) as temporary:
        sheet.save(temporary, format=kind)


def _draw_scale(
    sheet: Image.Image,
    place: tuple[int, int],
    ceiling: float,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
) -> None:
    """Draw the colour scale, from 0 to `ceiling`, with its numbers."""
    draw = ImageDraw.Draw(sheet)
    bar = np.broadcast_to(colorize(np.linspace(0, 1, 80, dtype=np.float32)), (LINE_HEIGHT - MARGIN, 80, 3))
    left, top = place
    draw.text((left, top), "0", fill="black", font=font)
    sheet.paste(Image.fromarray(bar.astype(np.uint8)), (left + 16, top + MARGIN // 2))
    draw.text((left + 16 + 80 + MARGIN, top), f"{ceiling:.3f}", fill="black", font=font)


def _fitted(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> str:
    """Shorten a caption in its middle until it is at most `width` pixels wide."""
    if font.getlength(text) <= width:
        return text
    kept = len(text)
    while kept > 8 and font.getlength(_shortened(text, kept)) > width:
        kept -= 1
    return _shortened(text, kept)


def _shortened(text: str, kept: int) -> str:
    return f"{text[: kept - 8]}…{text[-7:]}"
