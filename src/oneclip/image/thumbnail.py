"""Thumbnails for pages, terminals and comparisons: upright, RGB, small."""

from __future__ import annotations

import io

from PIL import Image

from oneclip.errors import ImageError
from oneclip.image.decode import ImageSource, open_image

THUMBNAIL_PIXELS = 256  # the longer side
JPEG_QUALITY = 85
MAX_PROFILE_BYTES = 8192  # larger colour profiles are those of printers


def make_thumbnail(source: ImageSource, pixels: int = THUMBNAIL_PIXELS) -> Image.Image | None:
    """Decode an image to an upright RGB thumbnail, transparent parts white; None if it cannot be read.

    Args:
        source: a path, the bytes of a file, or what else `open_image` opens.
        pixels: the longer side, unless the image is smaller.
    """

    def enough(size: tuple[int, int]) -> tuple[int, int]:
        scale = min(1.0, 2 * pixels / max(size))  # at twice the size, shrinking it stays smooth
        return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))

    try:
        image = open_image(source, min_size=enough, truncated="accept")
    except (ImageError, OSError):
        return None
    profile = image.info.get("icc_profile") if image.mode == "RGB" else None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, "white")
        canvas.alpha_composite(image)
        image = canvas
    image = image.convert("RGB")
    image.thumbnail((pixels, pixels), Image.Resampling.LANCZOS)
    image.info = {"icc_profile": profile} if profile and len(profile) <= MAX_PROFILE_BYTES else {}
    return image


def encode_thumbnail(image: Image.Image) -> bytes:
    """Encode a thumbnail as a JPEG file."""
    content = io.BytesIO()
    image.save(content, "JPEG", quality=JPEG_QUALITY, icc_profile=image.info.get("icc_profile"))
    return content.getvalue()
