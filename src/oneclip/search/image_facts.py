"""Facts about an image that the catalogue keeps: size, date, camera, place and perceptual hash.

They come from the decoding that computes the embedding anyway. EXIF metadata is read leniently: what is damaged or
makes no sense is unknown, never an error.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from oneclip.errors import ImageError

if TYPE_CHECKING:
    from oneclip.image import ImageHeader, ImageSource

_Base, _GPS = ExifTags.Base, ExifTags.GPS
# Tags of a date, of its time zone, and whether they are in the main directory; the best first.
_DATES = (
    (_Base.DateTimeOriginal, _Base.OffsetTimeOriginal, False),
    (_Base.DateTimeDigitized, _Base.OffsetTimeDigitized, False),
    (_Base.DateTime, _Base.OffsetTime, True),
)
_DATE = re.compile(r"(\d{4})[:/-](\d{2})[:/-](\d{2})[ T](\d{2}):(\d{2}):(\d{2})(?!\d)", re.ASCII)
_ZONE = re.compile(r"([+-])(\d{2}):?(\d{2})", re.ASCII)
_FIRST_YEAR = 1800  # there are no older photographs
_LONGEST_NAME = 100  # characters of a camera's name

_HASHED = 32  # pixels of each edge of the gray image that is hashed
_KEPT = 8  # frequencies of each axis whose signs are kept
_SAMPLED = 512  # pixels of each edge that are read of a large image
_BACKDROP = 128  # gray under transparent pixels: a black and a white drawing both stand out


@dataclass(frozen=True)
class ImageFacts:
    """Facts about an image that the catalogue keeps besides its embedding.

    Attributes:
        width: of the whole image in pixels, upright.
        height: likewise.
        format: Pillow's name in lower case, such as "jpeg" or "heif"; "raw" for camera raw files.
        taken_at: local time in ISO 8601 ("2023-05-01T12:30:00"), followed by the offset from UTC ("+02:00") if the
            file gives one; None if unknown. The time of the file is not used.
        camera: maker and model, without repeating the maker ("Google Pixel 7"); None if unknown.
        latitude: in degrees, south negative; None if unknown.
        longitude: in degrees, west negative; None if unknown.
        perceptual_hash: see `perceptual_hash`.
    """

    width: int
    height: int
    format: str
    taken_at: str | None
    camera: str | None
    latitude: float | None
    longitude: float | None
    perceptual_hash: int


COLUMNS = tuple(field.name for field in fields(ImageFacts))  # of the catalogue, in this order


def open_with_facts(source: ImageSource, **options: Any) -> tuple[Image.Image, ImageFacts]:
    """Open an image file as `open_image` does, and return the facts about it too.

    Args:
        source: a path, the bytes of a file, or a binary stream.
        options: arguments of `open_image`.

    Raises:
        ImageError: as `open_image`; also for PIL images and arrays, which have no header.
    """
    from oneclip.image import open_image  # it imports torch

    headers: list[ImageHeader] = []
    image = open_image(source, inspect=headers.append, **options)
    if not headers:
        raise ImageError(
            f"{type(source).__name__} is not an image file; pass a path, bytes or a binary stream"
        )
    return image, read_facts(image, headers[-1])


def read_facts(image: Image.Image, header: ImageHeader) -> ImageFacts:
    """Collect the facts about an image.

    Args:
        image: the upright image of `open_image`; a JPEG may be shrunk.
        header: what `open_image` handed to `inspect`.
    """
    latitude, longitude = _lenient(_place, header) or (None, None)
    return ImageFacts(
        header.width,
        header.height,
        header.format,
        _lenient(_taken_at, header),
        _lenient(_camera, header),
        latitude,
        longitude,
        perceptual_hash(image),
    )


def perceptual_hash(image: Image.Image) -> int:
    """Compute a hash that barely changes when an image is resized, compressed again or made lighter.

    The gray image is reduced to 32 x 32 pixels. Each of its 8 x 8 lowest frequencies (discrete cosine transform) gives
    one bit: whether it is above their median. This is the hash that is known as pHash (Zauner 2010, section 3.2.1).
    Copies differ in a few of the 64 bits, unrelated images in about 32.

    Args:
        image: of any mode of 8 bits, upright.

    Returns:
        64 bits as a signed integer, as SQLite stores it. `(a ^ b) & (2**64 - 1)` has a bit for each difference.
    """
    if (
        image.width > _SAMPLED or image.height > _SAMPLED
    ):  # a grid of pixels is enough, and takes 1 ms at any size
        size = (min(image.width, _SAMPLED), min(image.height, _SAMPLED))
        image = image.resize(size, Image.Resampling.NEAREST)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        backdrop = Image.new("RGBA", image.size, (_BACKDROP, _BACKDROP, _BACKDROP, 255))
        image = Image.alpha_composite(backdrop, image)
    gray = image.convert("L")
    if gray.size == (_SAMPLED, _SAMPLED):
        gray = gray.reduce(_SAMPLED // _HASHED)  # equals the other up to rounding, faster
    else:
        gray = gray.resize((_HASHED, _HASHED), Image.Resampling.BOX)
    basis = _cosines()
    # (8, 8); rounded, so that the errors of float32 do not decide the bits of a blank image
    frequencies = np.rint(basis @ np.asarray(gray, np.float32) @ basis.T)
    low, high = np.sort(frequencies, axis=None)[_KEPT**2 // 2 - 1 :][:2]
    bits = np.packbits(frequencies > (low + high) / 2)  # row by row, the lowest frequency first
    return int.from_bytes(bits.tobytes(), "big", signed=True)


@cache
def _cosines() -> NDArray[np.float32]:
    """Return the lowest frequencies of a discrete cosine transform of type II, (8, 32) float32."""
    frequency, pixel = np.mgrid[:_KEPT, :_HASHED]
    cosines: NDArray[np.float32] = np.cos(np.pi * frequency * (2 * pixel + 1) / (2 * _HASHED)).astype(
        np.float32
    )
    return cosines


def _lenient(read: Callable[[ImageHeader], Any], header: ImageHeader) -> Any:
    """Read a fact. Values of damaged metadata may have any type, so any error means that the fact is unknown."""
    try:
        return read(header)
    except Exception:
        return None


def _taken_at(header: ImageHeader) -> str | None:
    """Return the date of the best tag that makes sense."""
    for date, zone, in_main in _DATES:
        tags = header.tags if in_main else header.photo_tags
        found = _DATE.match(_text(tags.get(date)))
        if found and int(found[1]) >= _FIRST_YEAR:
            try:
                time = datetime(*map(int, found.groups()))  # type: ignore[arg-type]
            except ValueError:  # such as month 13
                continue
            return time.isoformat() + _offset(_text(header.photo_tags.get(zone)))
    return None


def _offset(text: str) -> str:
    """Return an offset from UTC as "+02:00", or "" if it is none."""
    if text in ("Z", "z"):
        return "+00:00"
    found = _ZONE.fullmatch(text)
    if found is None or int(found[2]) > 14 or int(found[3]) > 59:  # Kiribati is 14 hours ahead
        return ""
    return f"{found[1]}{found[2]}:{found[3]}"


def _camera(header: ImageHeader) -> str | None:
    """Join maker and model. "NIKON CORPORATION" and "NIKON D90" give "NIKON D90"."""
    make, model = (_text(header.tags.get(tag)) for tag in (_Base.Make, _Base.Model))
    first_word = re.match(r"\w+", model)
    is_repeated = first_word and first_word[0].lower() in re.findall(r"\w+", make.lower())
    name = model if is_repeated else f"{make} {model}".strip()
    return name[:_LONGEST_NAME].rstrip() or None


def _place(header: ImageHeader) -> tuple[float, float] | None:
    """Return latitude and longitude in degrees, both or none."""
    tags = header.gps_tags
    latitude = _degrees(tags.get(_GPS.GPSLatitude), _text(tags.get(_GPS.GPSLatitudeRef)), "NS", 90)
    longitude = _degrees(tags.get(_GPS.GPSLongitude), _text(tags.get(_GPS.GPSLongitudeRef)), "EW", 180)
    if latitude is None or longitude is None:
        return None
    if latitude == longitude == 0:  # written by devices that did not know where they were
        return None
    return latitude, longitude


def _degrees(value: Any, side: str, sides: str, limit: int) -> float | None:
    """Convert degrees, minutes and seconds; minutes and seconds may be missing."""
    parts = [float(part) for part in (value if isinstance(value, tuple) else (value,))]
    angle = sum(part / float(60**i) for i, part in enumerate(parts))
    side = side[:1].upper()
    if not (1 <= len(parts) <= 3 and side and side in sides and min(parts) >= 0 and math.isfinite(angle)):
        return None
    if angle > limit:
        return None
    return round(-angle if side == sides[1] else angle, 7)  # 1 cm


def _text(value: Any) -> str:
    """Return the text of a tag: up to the first NUL, without control characters and repeated blanks."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if not isinstance(value, str):
        return ""
    value = unicodedata.normalize("NFC", value.split("\0")[0])
    return " ".join("".join(c if c.isprintable() else " " for c in value).split())
