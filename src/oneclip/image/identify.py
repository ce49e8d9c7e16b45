"""Identify the format of an image file and open it, with a pixel limit per call.

This replaces `Image.open`, whose only pixel limit is a global variable.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from functools import partial
from typing import BinaryIO, cast

from PIL import Image, ImageFile

from oneclip.errors import ImageError, ImageTooLargeError, MissingExtraError
from oneclip.image.jpeg_xl import CODE_STREAM, CONTAINER, jpeg_xl_size
from oneclip.image.optional_formats import is_raw, register_reader

MAX_PIXELS_VARIABLE = "ONECLIP_MAX_PIXELS"

# Exceptions of Pillow's readers for damaged files; every format raises different ones.
DECODE_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError,
    EOFError, OverflowError, RuntimeError, struct.error, zlib.error,
)  # fmt: skip

_OTHER_FILES = (
    (b"%PDF", "a PDF; render its page to an image first"),
    (b"<svg", "an SVG drawing; render it to PNG first"),
    (b"<?xml", "XML, perhaps an SVG drawing; render it to PNG first"),
    (b"<!doctype html", "a web page; download the image that it shows"),
    (b"<html", "a web page; download the image that it shows"),
    (b"version https://git-lfs", "a Git LFS pointer; fetch the file itself with `git lfs pull`"),
    (b"%!PS", "PostScript; render it to PNG first"),
    (b"\xc5\xd0\xd3\xc6", "PostScript; render it to PNG first"),
    (b"PK\x03\x04", "a zip archive"),
)


def identify(stream: BinaryIO, name: str, limit: int) -> ImageFile.ImageFile | None:
    """Open an image with the first of Pillow's readers that accepts it; its pixels are not loaded.

    Args:
        stream: the file, at its beginning.
        name: name of the image in error messages.
        limit: largest number of pixels.

    Returns:
        The opened image; None for a camera raw file.

    Raises:
        ImageError: if the file is not an image.
        ImageTooLargeError: if it has more than `limit` pixels.
    """
    prefix = stream.read(16)
    if is_raw(stream, prefix):
        return None
    if prefix.startswith((CODE_STREAM, CONTAINER)):  # the reader of JPEG XL decodes when it opens
        _check_pixels(jpeg_xl_size(stream), name, limit)
    reasons: list[str] = []
    tried: set[str] = set()
    # common formats, then all of Pillow, then other packages
    for register in (Image.preinit, Image.init, partial(register_reader, prefix)):
        try:
            register()
        except MissingExtraError as error:
            raise ImageError(f"{name} cannot be read. {error}") from error
        for kind in tuple(Image.ID):
            if kind in tried or kind == "EPS":  # EPS would run Ghostscript
                continue
            tried.add(kind)
            factory, accept = Image.OPEN[kind]
            accepted: bool | str = False
            try:
                accepted = accept(prefix) if accept else True
                if accepted and not isinstance(accepted, str):
                    stream.seek(0)
                    image = cast(Callable[[BinaryIO, str], ImageFile.ImageFile], factory)(stream, "")
                    _check_pixels(image.size, name, limit)
                    return image
            except ImageTooLargeError:
                raise
            except Image.DecompressionBombError as error:
                raise pillow_limit_error(name, error) from error
            except DECODE_ERRORS as error:
                if accept and accepted:  # readers without `accept` are tried on every file
                    reasons.append(f"it begins like {kind}, but: {' '.join(str(error).split())}")
            if isinstance(accepted, str):  # this Pillow lacks the format
                reasons.append(accepted)
    stream.seek(0)
    raise ImageError(f"{name} {_describe(stream.read(256))}" + "".join(f"; {reason}" for reason in reasons))


def _describe(head: bytes) -> str:
    """Describe a file that is not an image by its first bytes."""
    if not head:
        return "is empty (0 bytes)"
    start = head.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    for signature, meaning in _OTHER_FILES:
        if start.startswith(signature.lower()):
            return f"is not an image but {meaning}"
    return f"is not an image that Pillow can read: it begins with {head[:16]!r}"


def pillow_limit_error(name: str, error: Exception) -> ImageTooLargeError:
    """Make the error for an image that exceeds the global pixel limit of Pillow."""
    return ImageTooLargeError(f"{name}: {error} This is Pillow's own limit, PIL.Image.MAX_IMAGE_PIXELS")


def _check_pixels(size: tuple[int, int] | None, name: str, limit: int) -> None:
    if size is not None and size[0] * size[1] > limit:
        raise ImageTooLargeError(
            f"{name} has {size[0]} x {size[1]} pixels, more than the limit of {limit}; "
            f"it was not decoded. If you trust the file, raise the limit: max_pixels=..., or {MAX_PIXELS_VARIABLE}"
        )
