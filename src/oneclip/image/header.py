"""Header of an image file: size, format and EXIF metadata."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, BinaryIO

from PIL import ExifTags, Image

from oneclip.image.orientation import swaps_sides


@dataclass(frozen=True)
class ImageHeader:
    """Size, format and metadata of a file, as `open_image` hands them to its argument `inspect`.

    Attributes:
        width: of the whole image in pixels, upright, also if a smaller image is decoded.
        height: likewise.
        format: Pillow's name in lower case, such as "jpeg" or "heif"; "raw" for camera raw files.
        tags: values of the main EXIF directory by tag number, see `PIL.ExifTags.Base`. Empty if there are none, or
            if they are damaged; so are the next two.
        photo_tags: those of the Exif directory, with the date and the exposure.
        gps_tags: those of the GPS directory, see `PIL.ExifTags.GPS`.
    """

    width: int
    height: int
    format: str
    tags: dict[int, Any]
    photo_tags: dict[int, Any]
    gps_tags: dict[int, Any]


def read_header(image: Image.Image, size: tuple[int, int]) -> ImageHeader:
    """Read the header of an image that is loaded but not yet rotated.

    Args:
        size: stored width and height, which a JPEG no longer has if it was shrunk while it was decoded.
    """
    width, height = reversed(size) if swaps_sides(image) else size
    return ImageHeader(width, height, (image.format or "").lower(), *_read_exif(image.getexif))


def read_raw_header(stream: BinaryIO, size: tuple[int, int], preview: ImageHeader | None) -> ImageHeader:
    """Read the header of a camera raw file.

    Args:
        stream: the file; most are TIFF files, whose EXIF metadata is complete.
        size: width and height of the upright image in pixels.
        preview: header of the preview in the file, whose EXIF metadata is used if the file itself has none.
    """

    def load() -> Image.Exif:
        stream.seek(0)
        exif = Image.Exif()
        exif.load_from_fp(stream)
        return exif

    found = _read_exif(load)
    if preview is not None and not found[0] and not found[1]:
        found = preview.tags, preview.photo_tags, preview.gps_tags
    return ImageHeader(*size, "raw", *found)


def _read_exif(load: Any) -> tuple[dict[int, Any], dict[int, Any], dict[int, Any]]:
    """Return the main, Exif and GPS directories; an empty one for each that is missing or damaged."""
    tags: dict[int, Any] = {}
    below: list[dict[int, Any]] = [{}, {}]
    try:
        exif: Image.Exif = load()
        tags = dict(exif)
        for i, directory in enumerate((ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)):
            if directory in exif:
                below[i] = dict(exif.get_ifd(directory))
    except Exception:  # Pillow's readers raise many types for damaged metadata, and warnings may be errors
        pass
    return tags, below[0], below[1]
