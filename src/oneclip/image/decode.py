"""Anything that holds one picture (path, bytes, stream, array, PIL image) to a loaded PIL image.

What is opened here comes out as the file's author saw it: EXIF orientation applied, the first frame of an
animation, 16-bit samples scaled to 8 bits. Otherwise the file's own mode is kept, because the published
preprocessing resizes before it converts to RGB. A PIL image that is passed in stays as it is.
"""

from __future__ import annotations

import io
import os
import struct
import threading
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from PIL import ExifTags, Image, ImageFile

from oneclip.errors import ConfigError, ImageError, ImageNotFoundError, ImageTooLargeError, MissingExtraError
from oneclip.hub.addresses import with_slashes
from oneclip.image.arrays import image_from_array, to_8_bits
from oneclip.image.libtiff import silence_libtiff
from oneclip.image.plugins import is_raw, raw_preview, register_for

ImageSource = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Image.Image | np.ndarray[Any, Any]
)

DEFAULT_MAX_PIXELS = 2 * 89_478_485  # where Pillow, too, calls a picture a decompression bomb
MAX_PIXELS_VARIABLE = "ONECLIP_MAX_PIXELS"

# What Pillow's readers raise on damaged files: each format has its own habits.
_DAMAGE = (
    OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError,
    EOFError, OverflowError, RuntimeError, struct.error, zlib.error,
)  # fmt: skip

Least = Callable[[tuple[int, int]], tuple[int, int]]

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

_LOOKALIKES = (
    (b"%PDF", "a PDF; render its page to a picture first"),
    (b"<svg", "an SVG drawing; render it to PNG first"),
    (b"<?xml", "XML, perhaps an SVG drawing; render it to PNG first"),
    (b"<!doctype html", "a web page, not the picture it shows"),
    (b"<html", "a web page, not the picture it shows"),
    (b"version https://git-lfs", "a Git LFS pointer; fetch the file itself with `git lfs pull`"),
    (b"%!PS", "PostScript; render it to PNG first"),
    (b"\xc5\xd0\xd3\xc6", "PostScript; render it to PNG first"),
    (b"PK\x03\x04", "a zip archive"),
)

# Loading a lazily opened PIL image changes it, so two threads given the same one must take turns.
_LOAD_LOCKS = tuple(threading.Lock() for _ in range(64))


def open_image(
    source: ImageSource, *, max_pixels: int | None = None, least: Least | None = None
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
    limit = pixel_limit(max_pixels)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(io.BytesIO(source), f"the picture given as {len(source)} bytes", limit, least)
    if isinstance(source, (str, os.PathLike)):
        path = _existing_file(os.fspath(source))
        try:
            with path.open("rb") as file:
                return _decode(file, str(path), limit, least)
        except OSError as error:  # those of decoding are ImageErrors already
            raise ImageError(f"{path} cannot be read: {error.strerror or error}") from error
    if hasattr(source, "read"):
        name = f"the picture in {getattr(source, 'name', 'the stream')}"
        return _decode(_seekable(source), name, limit, least)
    hint = "; encode_pixels takes tensors" if type(source).__module__.startswith("torch") else ""
    raise ImageError(
        f"expected a path, bytes, a binary stream, a PIL image or an array, not {type(source).__name__}{hint}"
    )


def load_pixels(image: Image.Image) -> Image.Image:
    """Load a PIL image that may have been opened lazily; the same object, known to be whole and not empty."""
    with _LOAD_LOCKS[id(image) // 64 % len(_LOAD_LOCKS)]:
        try:
            image.load()
        except _DAMAGE as error:
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
    if path.is_dir():
        raise ImageError(f"{name} is a folder; give the pictures in it")
    if not path.exists():
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


def _decode(stream: BinaryIO, name: str, limit: int, least: Least | None) -> Image.Image:
    """Decode an open stream: identify, check the size, load (shrunk to no less), turn upright, make 8-bit."""
    image = _identify(stream, name)
    if image is None:
        return _decode_raw(stream, name, limit, least)
    if image.width * image.height > limit:
        raise ImageTooLargeError(
            f"{name} has {image.width} x {image.height} pixels, more than the limit of {limit}; "
            f"it was not decoded. If you trust it, raise the limit: max_pixels=..., or {MAX_PIXELS_VARIABLE}"
        )
    kind, size = image.format, f"{image.width} x {image.height}"
    if kind == "TIFF":
        silence_libtiff()
    try:
        if least is not None and kind in ("JPEG", "MPO"):
            _shrink(image, least)
        image.load()
    except Image.DecompressionBombError as error:
        raise _pillow_limit(name, error) from error
    except _DAMAGE as error:
        raise ImageError(f"{name} is truncated or damaged ({kind}, {size}): {error}") from error
    return to_8_bits(_upright(image), name, kind or "")


def _decode_raw(stream: BinaryIO, name: str, limit: int, least: Least | None) -> Image.Image:
    """Decode the preview in a camera's raw file, or develop it where that is too small."""
    try:
        preview, orientation = raw_preview(stream)
    except MissingExtraError as error:
        raise ImageError(f"{name} is a camera's raw file. {error}") from error
    except _DAMAGE as error:
        raise ImageError(
            f"{name} is a camera's raw file that is damaged or of an unknown camera: {error}"
        ) from error
    if isinstance(preview, Image.Image):
        return preview
    image = _decode(io.BytesIO(preview), f"the preview in {name}", limit, least)
    has_own = ExifTags.Base.Orientation in Image.open(io.BytesIO(preview)).getexif()
    return image if has_own or orientation == 1 else image.transpose(_UPRIGHT[orientation])


def _identify(stream: BinaryIO, name: str) -> ImageFile.ImageFile | None:
    """Read the header of a picture with the first of Pillow's readers that knows it; None for a camera's raw file.

    This is what `Image.open` does, without its check of a process-wide limit: ours is an argument.
    """
    prefix = stream.read(16)
    if is_raw(stream, prefix):
        return None
    reasons: list[str] = []
    tried: set[str] = set()
    # the common formats, then all, then those of other packages
    for register in (Image.preinit, Image.init, partial(register_for, prefix)):
        try:
            register()
        except MissingExtraError as error:
            raise ImageError(f"{name} cannot be read. {error}") from error
        for kind in tuple(Image.ID):
            if kind in tried or kind == "EPS":  # reading EPS would run Ghostscript
                continue
            tried.add(kind)
            factory, accept = Image.OPEN[kind]
            accepted: bool | str = False
            try:
                accepted = accept(prefix) if accept else True
                if accepted and not isinstance(accepted, str):
                    stream.seek(0)
                    return cast(Callable[[BinaryIO, str], ImageFile.ImageFile], factory)(stream, "")
            except Image.DecompressionBombError as error:
                raise _pillow_limit(name, error) from error
            except _DAMAGE as error:
                if accept and accepted:  # a reader that takes any prefix says nothing by failing
                    reasons.append(f"it begins like {kind}, but: {error}")
            if isinstance(accepted, str):  # Pillow was built without this format
                reasons.append(accepted)
    stream.seek(0)
    raise ImageError(f"{name} {_what_it_is(stream.read(256))}" + "".join(f"; {reason}" for reason in reasons))


def _what_it_is(head: bytes) -> str:
    """How to describe a file that is not a picture, from its first bytes."""
    if not head:
        return "is empty (0 bytes)"
    start = head.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    for signature, meaning in _LOOKALIKES:
        if start.startswith(signature.lower()):
            return f"is not a picture but {meaning}"
    return f"is not a picture that Pillow can read: it begins with {head[:16]!r}"


def _pillow_limit(name: str, error: Exception) -> ImageTooLargeError:
    return ImageTooLargeError(f"{name}: {error} This is Pillow's own limit, PIL.Image.MAX_IMAGE_PIXELS")


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
    except _DAMAGE:
        return 1
    return orientation if isinstance(orientation, int) else 1
