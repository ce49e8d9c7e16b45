"""Anything that holds one picture (path, bytes, stream, array, PIL image) to a loaded PIL image.

What is opened here comes out as the file's author saw it: EXIF orientation applied, the first frame of an
animation, 16-bit samples scaled to 8 bits. Otherwise the file's own mode is kept, because the published
preprocessing resizes before it converts to RGB. A PIL image that is passed in stays as it is.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

import numpy as np
from PIL import ExifTags, Image, ImageFile

from oneclip.errors import ConfigError, ImageError, ImageNotFoundError, ImageTooLargeError, MissingExtraError
from oneclip.hub.addresses import size_of_file, with_slashes
from oneclip.image.arrays import image_from_array, to_8_bits
from oneclip.image.bit_depth import before_loading
from oneclip.image.damaged_metadata import (
    JPEG,
    PNG,
    continued_jpegs,
    ended_jpeg,
    has_all_scans,
    without_metadata,
)
from oneclip.image.identify import DAMAGE, MAX_PIXELS_VARIABLE, identify, pillow_limit
from oneclip.image.libtiff import silence_libtiff
from oneclip.image.optional_formats import raw_preview

ImageSource = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Image.Image | np.ndarray[Any, Any]
)

DEFAULT_MAX_PIXELS = 2 * 89_478_485  # where Pillow, too, calls a picture a decompression bomb

Least = Callable[[tuple[int, int]], tuple[int, int]]
Truncated: TypeAlias = Literal["refuse", "accept"]

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # EXIF orientation to the transposition that undoes it

_SIDEWAYS = (5, 6, 7, 8)  # orientations that make the height of a file the width of the picture

# Where a picture's metadata may repeat an orientation that has been applied.
_ORIENTED_METADATA = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")

# Loading a lazily opened PIL image changes it, so two threads given the same one must take turns.
_LOAD_LOCKS = tuple(threading.Lock() for _ in range(64))


def open_image(
    source: ImageSource,
    *,
    max_pixels: int | None = None,
    least: Least | None = None,
    truncated: Truncated = "refuse",
) -> Image.Image:
    """Open one picture and load its pixels. Safe to call from many threads.

    Args:
        source: a path, the bytes of a file, a binary stream (read from its beginning, left open), a PIL image
            (returned as it is, but loaded), or an array (H, W) or (H, W, 1 | 3 | 4) of uint8, uint16, bool or
            floats in [0, 1].
        max_pixels: largest width x height of a file that is decoded; by default the environment variable
            ONECLIP_MAX_PIXELS, or 178,956,970.
        least: the (height, width) of a picture to the (height, width) that are needed of it: a JPEG is shrunk by
            2, 4 or 8 while it is decoded where that leaves as many. None for all pixels of the file.
        truncated: "accept" a file whose pixels break off, as far as they can be decoded; the rest is gray or black.
            Damaged metadata, and a JPEG that lacks its end mark alone, cost no image in either case.

    Returns:
        A loaded image in the mode that its file has ("RGB", "L", "P", "CMYK", ...).

    Raises:
        ImageNotFoundError: there is no such file.
        ImageError: not a picture, truncated, of no size, or of an unknown white level.
        ImageTooLargeError: more pixels than `max_pixels`; nothing was decoded.
    """
    if isinstance(source, Image.Image):
        return load_pixels(source)
    if isinstance(source, np.ndarray):
        return image_from_array(source)
    if truncated not in ("refuse", "accept"):
        raise ConfigError(f"truncated is {truncated!r} and must be 'refuse' or 'accept'")
    how = _How(pixel_limit(max_pixels), least, truncated)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(io.BytesIO(source), f"the picture given as {len(source)} bytes", how)
    if isinstance(source, (str, os.PathLike)):
        path = _existing_file(os.fspath(source))
        try:
            with path.open("rb") as file:
                return _decode(file, str(path), how)
        except OSError as error:  # those of decoding are ImageErrors already
            raise ImageError(f"{path} cannot be read: {error.strerror or error}") from error
    if hasattr(source, "read"):
        name = f"the picture in {getattr(source, 'name', 'the stream')}"
        return _decode(_seekable(source), name, how)
    hint = "; encode_pixels takes tensors" if type(source).__module__.startswith("torch") else ""
    raise ImageError(
        f"expected a path, bytes, a binary stream, a PIL image or an array, not {type(source).__name__}{hint}"
    )


def check_header(path: str, *, max_pixels: int | None = None) -> None:
    """Refuse a file, before it is read, of which the first bytes show that it cannot be decoded.

    Raises:
        ImageError: if it is no image.
        ImageTooLargeError: if it has more pixels than `max_pixels`, see `open_image`.
    """
    with open(path, "rb") as file:
        try:
            identify(file, path, pixel_limit(max_pixels))
        except ImageTooLargeError:
            raise
        except ImageError:
            file.seek(0)
            if file.read(8).startswith((PNG, JPEG)):  # only its metadata may be damaged
                return
            raise


def load_pixels(image: Image.Image) -> Image.Image:
    """Load a PIL image that may have been opened lazily; the same object, known to be whole and not empty."""
    with _LOAD_LOCKS[id(image) // 64 % len(_LOAD_LOCKS)]:
        try:
            image.load()
        except DAMAGE as error:
            name = getattr(image, "filename", "") or f"the {image.format or 'PIL'} image"
            raise ImageError(f"{name} is truncated or damaged: {error}") from error
    if 0 in image.size:
        raise ImageError(f"the picture has no pixels: {image.width} x {image.height}")
    return image


def pixel_limit(max_pixels: int | None = None) -> int:
    """The largest number of pixels to decode: the argument, else ONECLIP_MAX_PIXELS, else the default."""
    if max_pixels is not None:
        limit, origin = max_pixels, "max_pixels"
    elif text := os.environ.get(MAX_PIXELS_VARIABLE, "").strip():
        if not text.replace("_", "").isdecimal():
            raise ConfigError(f"{MAX_PIXELS_VARIABLE} must be a whole number of pixels, not {text!r}")
        limit, origin = int(text), MAX_PIXELS_VARIABLE
    else:
        return DEFAULT_MAX_PIXELS
    if limit < 1:
        raise ConfigError(f"{origin} must be at least 1, not {limit}; to lift the limit give a large number")
    return limit


def _existing_file(name: str) -> Path:
    """The path of a file that is there; backslashes are separators everywhere, if that is what finds it."""
    if name.lower().startswith(("http://", "https://", "data:")):
        raise ImageError(f"{name[:100]} is an address, not a file: fetch it and pass its bytes")
    if not name:
        raise ImageError("the path of the picture is empty")
    if "\0" in name:
        raise ImageError(f"{name!r} is not a path: it holds a null character")
    path = Path(with_slashes(name))
    if path.exists():
        size_of_file(str(path))  # which refuses what is not a regular file
    else:
        missing_folder = "" if path.parent.exists() else f" (there is no folder {path.parent} either)"
        raise ImageNotFoundError(f"{name}: no such file{missing_folder}")
    return path


def _seekable(stream: BinaryIO) -> BinaryIO:
    """The stream from its beginning; one that cannot seek is read to its end."""
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
class _How:
    """What a file is decoded with: the arguments of `open_image`."""

    limit: int
    least: Least | None
    truncated: Truncated


def _decode(stream: BinaryIO, name: str, how: _How) -> Image.Image:
    """Decode an open stream; one that fails once more without its metadata, or as a JPEG without its end."""
    try:
        return _decode_once(stream, name, how)
    except ImageTooLargeError:
        raise
    except ImageError as error:
        stream.seek(0)
        if not stream.read(8).startswith((PNG, JPEG)):
            raise
        stream.seek(0)
        found = _decode_leniently(stream.read(), name, how)
        if found is None:
            raise error
        return found


def _decode_leniently(data: bytes, name: str, how: _How) -> Image.Image | None:
    bare = without_metadata(data)
    found = None if bare == data else _try(bare, name, how)
    if found is not None or not data.startswith(JPEG):
        return found
    ended = _try(ended_jpeg(bare), name, how)
    if ended is None or how.truncated == "accept":
        return ended
    if not has_all_scans(bare):
        return None
    for other in continued_jpegs(bare):
        continued = _try(other, name, how)
        if continued is None or continued.tobytes() != ended.tobytes():
            return None
    return ended


def _try(data: bytes, name: str, how: _How) -> Image.Image | None:
    try:
        return _decode_once(io.BytesIO(data), name, how)
    except ImageTooLargeError:
        raise
    except ImageError:
        return None


def _decode_once(stream: BinaryIO, name: str, how: _How) -> Image.Image:
    """Identify, check the size, load (shrunk to no less), turn upright, make 8-bit."""
    image = identify(stream, name, how.limit)
    if image is None:
        return _decode_raw(stream, name, how)
    kind, size = image.format, f"{image.width} x {image.height}"
    if kind == "TIFF":
        silence_libtiff()
    try:
        depth = before_loading(image, stream, name)
        if how.least is not None and kind in ("JPEG", "MPO"):
            _shrink(image, how.least)
        _load(image, how.truncated if kind not in ("JPEG", "MPO") else "refuse")
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise pillow_limit(name, error) from error
    except DAMAGE as error:
        hint = "" if how.truncated == "accept" else "; accept truncated images to use what there is of it"
        raise ImageError(f"{name} is truncated or damaged ({kind}, {size}): {error}{hint}") from error
    return to_8_bits(_upright(image), name, kind or "", depth)


def _load(image: ImageFile.ImageFile, truncated: Truncated) -> None:
    """Load the pixels; those that were decoded before an error, if a truncated file is accepted."""
    try:
        image.load()
    except DAMAGE:
        if truncated == "refuse":
            raise
        image.tile = []
        image.load()
        if image.getbbox() is None:  # nothing was decoded
            raise


def _decode_raw(stream: BinaryIO, name: str, how: _How) -> Image.Image:
    """Decode the preview in a camera's raw file, or develop it where that is too small."""
    try:
        preview, orientation = raw_preview(stream)
    except MissingExtraError as error:
        raise ImageError(f"{name} is a camera's raw file. {error}") from error
    except DAMAGE as error:
        raise ImageError(
            f"{name} is a camera's raw file that is damaged or of an unknown camera: {error}"
        ) from error
    if isinstance(preview, Image.Image):
        return preview
    name = f"the preview in {name}"
    opened = identify(io.BytesIO(preview), name, how.limit)
    has_own = opened is not None and ExifTags.Base.Orientation in opened.getexif()
    image = _decode(io.BytesIO(preview), name, how)
    return image if has_own or orientation == 1 else image.transpose(_UPRIGHT[orientation])


def _shrink(image: ImageFile.ImageFile, least: Least) -> None:
    """Have a JPEG decoded at the smallest size that is enough once it stands upright."""
    if _orientation(image) in _SIDEWAYS:
        width, height = least((image.width, image.height))
    else:
        height, width = least((image.height, image.width))
    image.draft(None, (width, height))


def _upright(image: ImageFile.ImageFile) -> Image.Image:
    """Apply the EXIF orientation; what comes out needs its file no more."""
    transposition = _UPRIGHT.get(_orientation(image))
    if transposition is not None:
        upright = image.transpose(transposition)
        for key in _ORIENTED_METADATA:
            upright.info.pop(key, None)
        return upright
    if image.format in ("JPEG", "PNG") and getattr(image, "n_frames", 1) == 1:
        return image  # already let go of its file
    return image.copy()


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none, or where only the metadata is damaged.

    JPEG XL has an orientation of its own, which its reader applies and which counts instead.
    """
    if image.format == "JXL" and not getattr(image, "jpeg", False):
        return 1
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except DAMAGE:
        return 1
    return orientation if isinstance(orientation, int) else 1
