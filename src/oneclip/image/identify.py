"""Which format a file has, and what a file is that has none: `Image.open` with a limit of pixels of our own."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from functools import partial
from typing import BinaryIO, cast

from PIL import Image, ImageFile

from oneclip.errors import ImageError, ImageTooLargeError, MissingExtraError
from oneclip.image.jpeg_xl import CODE_STREAM, CONTAINER, jpeg_xl_size
from oneclip.image.optional_formats import is_raw, register_for

MAX_PIXELS_VARIABLE = "ONECLIP_MAX_PIXELS"

# What Pillow's readers raise on damaged files: each format has its own habits.
DAMAGE = (
    OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError,
    EOFError, OverflowError, RuntimeError, struct.error, zlib.error,
)  # fmt: skip

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


def identify(stream: BinaryIO, name: str, limit: int) -> ImageFile.ImageFile | None:
    """Read the header of a picture with the first of Pillow's readers that knows it; None for a camera's raw file.

    Raises:
        ImageError: for what is no image.
        ImageTooLargeError: for one of more than `limit` pixels.

    This is what `Image.open` does, without its check of a process-wide limit: ours is an argument.
    """
    prefix = stream.read(16)
    if is_raw(stream, prefix):
        return None
    if prefix.startswith((CODE_STREAM, CONTAINER)):  # whose reader decodes when it opens
        _check_pixels(jpeg_xl_size(stream), name, limit)
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
                    image = cast(Callable[[BinaryIO, str], ImageFile.ImageFile], factory)(stream, "")
                    _check_pixels(image.size, name, limit)
                    return image
            except ImageTooLargeError:
                raise
            except Image.DecompressionBombError as error:
                raise pillow_limit(name, error) from error
            except DAMAGE as error:
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


def pillow_limit(name: str, error: Exception) -> ImageTooLargeError:
    return ImageTooLargeError(f"{name}: {error} This is Pillow's own limit, PIL.Image.MAX_IMAGE_PIXELS")


def _check_pixels(size: tuple[int, int] | None, name: str, limit: int) -> None:
    if size is not None and size[0] * size[1] > limit:
        raise ImageTooLargeError(
            f"{name} has {size[0]} x {size[1]} pixels, more than the limit of {limit}; "
            f"it was not decoded. If you trust it, raise the limit: max_pixels=..., or {MAX_PIXELS_VARIABLE}"
        )
