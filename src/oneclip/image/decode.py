"""Decode one image from a path, bytes, a stream, an array or a PIL image.

The result looks as the author of the file saw it: EXIF orientation applied, the first frame of an animation, 16-bit
samples scaled to 8 bits. The mode of the file is kept, because the published preprocessing resizes before it converts
to RGB. A PIL image that is passed in is not changed.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

import numpy as np
from PIL import ExifTags, Image, ImageFile

from oneclip.errors import ConfigError, ImageError, ImageNotFoundError, ImageTooLargeError, MissingExtraError
from oneclip.hub.addresses import regular_file_size, with_slashes
from oneclip.image.arrays import image_from_array, to_8_bits
from oneclip.image.bit_depth import correct_sample_depth
from oneclip.image.header import ImageHeader, read_header, read_raw_header
from oneclip.image.identify import DECODE_ERRORS, MAX_PIXELS_VARIABLE, identify, pillow_limit_error
from oneclip.image.libtiff import silence_libtiff
from oneclip.image.optional_formats import read_raw_preview
from oneclip.image.orientation import detach_upright, rotate_upright, swaps_sides
from oneclip.image.repair import (
    JPEG,
    PNG,
    append_end_marker,
    has_all_scans,
    jpegs_with_random_endings,
    strip_metadata,
)

ImageSource: TypeAlias = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Image.Image | np.ndarray[Any, Any]
)
MinSize: TypeAlias = Callable[[tuple[int, int]], tuple[int, int]]
Inspect: TypeAlias = Callable[[ImageHeader], object]
Truncated: TypeAlias = Literal["refuse", "accept"]

DEFAULT_MAX_PIXELS = 2 * 89_478_485  # Pillow also reports a decompression bomb from this size on

# Loading a lazily opened PIL image changes it, so threads that share one must load it in turn.
_LOAD_LOCKS = tuple(threading.Lock() for _ in range(64))


def open_image(
    source: ImageSource,
    *,
    max_pixels: int | None = None,
    min_size: MinSize | None = None,
    truncated: Truncated = "refuse",
    inspect: Inspect | None = None,
) -> Image.Image:
    """Open one image and load its pixels. Safe to call from many threads.

    Args:
        source: a path, the bytes of a file, a binary stream (read from its beginning, left open), a PIL image
            (loaded and returned), or an array (H, W) or (H, W, 1 | 3 | 4) of uint8, uint16, bool or floats in [0, 1].
        max_pixels: largest width x height of a file that is decoded; by default the environment variable
            ONECLIP_MAX_PIXELS, or 178,956,970.
        min_size: maps the (height, width) of an image to the smallest (height, width) that is useful. A JPEG is
            shrunk by 2, 4 or 8 while it is decoded if the result is at least that large. None decodes all pixels.
        truncated: "accept" a file whose pixels break off and use the part that can be decoded; the rest is gray or
            black. Damaged metadata, or a JPEG that lacks only its end marker, is never an error.
        inspect: called with the header of a file once its pixels are loaded. Called again, with the same header, while
            a damaged file is repaired; never for PIL images and arrays.

    Returns:
        A loaded image in the mode of its file ("RGB", "L", "P", "CMYK", ...).

    Raises:
        ImageNotFoundError: if the file does not exist.
        ImageError: if the source is not an image, is truncated, is empty, or has an unknown white level.
        ImageTooLargeError: if it has more pixels than `max_pixels`; nothing is decoded.
    """
    if isinstance(source, Image.Image):
        return load_pixels(source)
    if isinstance(source, np.ndarray):
        return image_from_array(source)
    if truncated not in ("refuse", "accept"):
        raise ConfigError(f"truncated is {truncated!r}; expected 'refuse' or 'accept'")
    options = _DecodeOptions(pixel_limit(max_pixels), min_size, truncated, inspect)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(io.BytesIO(source), f"the image of {len(source)} bytes", options)
    if isinstance(source, (str, os.PathLike)):
        path = _existing_file(os.fspath(source))
        try:
            with path.open("rb") as file:
                return _decode(file, str(path), options)
        except OSError as error:  # decoding itself raises ImageError
            raise ImageError(f"{path} cannot be read: {error.strerror or error}") from error
    if hasattr(source, "read"):
        name = f"the image in {getattr(source, 'name', 'the stream')}"
        return _decode(_rewound(source), name, options)
    hint = "; encode_pixels takes tensors" if type(source).__module__.startswith("torch") else ""
    raise ImageError(
        f"expected a path, bytes, a binary stream, a PIL image or an array, not {type(source).__name__}{hint}"
    )


def check_header(path: str, *, max_pixels: int | None = None) -> None:
    """Check the first bytes of a file before the whole file is read.

    Raises:
        ImageError: if the file is not an image that can be decoded.
        ImageTooLargeError: if it has more pixels than `max_pixels`, see `open_image`.
    """
    with open(path, "rb") as file:
        try:
            identify(file, path, pixel_limit(max_pixels))
        except ImageTooLargeError:
            raise
        except ImageError:
            file.seek(0)
            if file.read(8).startswith((PNG, JPEG)):  # perhaps only the metadata is damaged
                return
            raise


def load_pixels(image: Image.Image) -> Image.Image:
    """Load a PIL image that may have been opened lazily, and return it.

    Raises:
        ImageError: if it is truncated, damaged or empty.
    """
    with _LOAD_LOCKS[id(image) // 64 % len(_LOAD_LOCKS)]:
        try:
            image.load()
        except DECODE_ERRORS as error:
            name = getattr(image, "filename", "") or f"the {image.format or 'PIL'} image"
            raise ImageError(f"{name} is truncated or damaged: {error}") from error
    if 0 in image.size:
        raise ImageError(f"the image has no pixels: {image.width} x {image.height}")
    return image


def pixel_limit(max_pixels: int | None = None) -> int:
    """Return the largest number of pixels to decode: the argument, else ONECLIP_MAX_PIXELS, else the default.

    Raises:
        ConfigError: if the limit is not a whole number above 0.
    """
    if max_pixels is not None:
        limit, origin = max_pixels, "max_pixels"
    elif text := os.environ.get(MAX_PIXELS_VARIABLE, "").strip():
        if not text.replace("_", "").isdecimal():
            raise ConfigError(f"{MAX_PIXELS_VARIABLE} must be a whole number of pixels, not {text!r}")
        limit, origin = int(text), MAX_PIXELS_VARIABLE
    else:
        return DEFAULT_MAX_PIXELS
    if limit < 1:
        raise ConfigError(f"{origin} must be at least 1, not {limit}; to lift the limit, set a large number")
    return limit


def _existing_file(name: str) -> Path:
    """Return the path of an existing file. Backslashes may separate folders on every system."""
    if name.lower().startswith(("http://", "https://", "data:")):
        raise ImageError(f"{name[:100]} is an address, not a file: download it and pass its bytes")
    if not name:
        raise ImageError("the path of the image is empty")
    if "\0" in name:
        raise ImageError(f"{name!r} is not a path: it contains a null character")
    path = Path(with_slashes(name))
    if path.exists():
        regular_file_size(str(path))  # raises for anything but a regular file
    else:
        missing_folder = "" if path.parent.exists() else f" (folder {path.parent} does not exist)"
        raise ImageNotFoundError(f"{name}: no such file{missing_folder}")
    return path


def _rewound(stream: BinaryIO) -> BinaryIO:
    """Return the stream at its beginning. A stream that cannot seek is read into memory."""
    if isinstance(stream, io.TextIOBase):
        raise ImageError(
            f"{getattr(stream, 'name', 'the stream')} was opened as text; open it with mode 'rb'"
        )
    try:
        stream.seek(0)
    except (AttributeError, io.UnsupportedOperation):
        return io.BytesIO(stream.read())
    except ValueError as error:  # a closed file
        raise ImageError(f"{getattr(stream, 'name', 'the stream')} cannot be read: {error}") from error
    return stream


@dataclass(frozen=True)
class _DecodeOptions:
    """Arguments of `open_image` that decoding needs."""

    max_pixels: int
    min_size: MinSize | None
    truncated: Truncated
    inspect: Inspect | None


def _decode(stream: BinaryIO, name: str, options: _DecodeOptions) -> Image.Image:
    """Decode a stream. If that fails, repair a PNG or JPEG and try again."""
    try:
        return _decode_once(stream, name, options)
    except ImageTooLargeError:
        raise
    except ImageError as error:
        stream.seek(0)
        if not stream.read(8).startswith((PNG, JPEG)):
            raise
        stream.seek(0)
        repaired = _decode_repaired(stream.read(), name, options)
        if repaired is None:
            raise error
        return repaired


def _decode_repaired(data: bytes, name: str, options: _DecodeOptions) -> Image.Image | None:
    """Decode without damaged metadata, or with a new end marker if no sample of a JPEG is missing."""
    bare = strip_metadata(data)
    image = None if bare == data else _try_decode(bare, name, options)
    if image is not None or not data.startswith(JPEG):
        return image
    ended = _try_decode(append_end_marker(bare), name, options)
    if ended is None or options.truncated == "accept":
        return ended
    if not has_all_scans(bare):
        return None
    for other in jpegs_with_random_endings(bare):
        changed = _try_decode(other, name, options)
        if changed is None or changed.tobytes() != ended.tobytes():
            return None
    return ended


def _try_decode(data: bytes, name: str, options: _DecodeOptions) -> Image.Image | None:
    try:
        return _decode_once(io.BytesIO(data), name, options)
    except ImageTooLargeError:
        raise
    except ImageError:
        return None


def _decode_once(stream: BinaryIO, name: str, options: _DecodeOptions) -> Image.Image:
    """Identify the format, check the size, load, rotate upright, convert to 8 bits."""
    image = identify(stream, name, options.max_pixels)
    if image is None:
        return _decode_raw(stream, name, options)
    kind, size = image.format, f"{image.width} x {image.height}"
    is_jpeg, full_size = kind in ("JPEG", "MPO"), image.size
    if kind == "TIFF":
        silence_libtiff()
    try:
        depth = correct_sample_depth(image, stream, name)
        if options.min_size is not None and is_jpeg:
            _shrink_while_decoding(image, options.min_size)
        # a truncated JPEG is accepted after its end marker was added, see `_decode_repaired`
        _load(image, "refuse" if is_jpeg else options.truncated)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise pillow_limit_error(name, error) from error
    except DECODE_ERRORS as error:
        is_final = options.truncated == "accept"
        hint = (
            "" if is_final else "; to use the part that is left, accept truncated images (--truncated accept)"
        )
        raise ImageError(
            f"{name} is truncated or damaged ({kind}, {size}): {' '.join(str(error).split())}{hint}"
        ) from error
    if options.inspect is not None:
        # only a JPEG shrinks; readers of icons choose the size when they load
        options.inspect(read_header(image, full_size if is_jpeg else image.size))
    return to_8_bits(detach_upright(image), name, kind or "", depth)


def _shrink_while_decoding(image: ImageFile.ImageFile, min_size: MinSize) -> None:
    """Let the JPEG decoder use its smallest scale that still gives `min_size` once the image is upright."""
    if swaps_sides(image):
        width, height = min_size((image.width, image.height))
    else:
        height, width = min_size((image.height, image.width))
    image.draft(None, (width, height))


def _load(image: ImageFile.ImageFile, truncated: Truncated) -> None:
    """Load the pixels; if a truncated file is accepted, those before the error."""
    try:
        image.load()
    except DECODE_ERRORS:
        if truncated == "refuse":
            raise
        image.tile = []
        image.load()
        if image.getbbox() is None:  # nothing was decoded
            raise


def _decode_raw(stream: BinaryIO, name: str, options: _DecodeOptions) -> Image.Image:
    """Decode the preview in a camera raw file, or develop the file if the preview is too small."""
    try:
        preview, orientation, size = read_raw_preview(stream)
    except MissingExtraError as error:
        raise ImageError(f"{name} is a camera raw file. {error}") from error
    except DECODE_ERRORS as error:
        raise ImageError(
            f"{name} is a camera raw file that is damaged or of an unknown camera: {error}"
        ) from error
    headers: list[ImageHeader] = []  # of the preview
    if isinstance(preview, Image.Image):
        image = preview
    else:
        name = f"the preview in {name}"
        opened = identify(io.BytesIO(preview), name, options.max_pixels)
        has_own = opened is not None and ExifTags.Base.Orientation in opened.getexif()
        image = _decode(io.BytesIO(preview), name, replace(options, inspect=headers.append))
        image = image if has_own else rotate_upright(image, orientation)
    if options.inspect is not None:
        options.inspect(read_raw_header(stream, size, headers[-1] if headers else None))
    return image
