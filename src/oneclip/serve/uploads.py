"""Images that are sent as files: the parts of a form, and what their headers say."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

import numpy as np
from PIL import ImageMode
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request

from oneclip.errors import ImageError
from oneclip.image import open_image
from oneclip.image.decode import pixel_limit
from oneclip.image.header import ImageHeader, read_header
from oneclip.image.identify import identify
from oneclip.serve.errors import RequestError

FORM, URL_ENCODED = "multipart/form-data", "application/x-www-form-urlencoded"
MAX_FIELDS = 100  # besides files


class ImageFacts(NamedTuple):
    """What the header of an image says.

    Attributes:
        width, height: of the upright image in pixels.
        format: in lower case, such as "jpeg".
        bit_depth: bits of a pixel, as it is decoded.
    """

    width: int
    height: int
    format: str
    bit_depth: int


def media_type(request: Request) -> str:
    """Return the type of a request's body in lower case, without parameters; "" if there is none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


@asynccontextmanager
async def read_form(request: Request, max_files: int) -> AsyncIterator[FormData]:
    """Read the form of a request; its files are closed at the end.

    Raises:
        RequestError: 415, if the body is not a form; 400, if it is damaged or has too many parts.
    """
    if (found := media_type(request)) not in (FORM, URL_ENCODED):
        raise RequestError(415, f"the body is {found[:100]!r}; expected {FORM}", code="unsupported_type")
    try:
        form = await request.form(max_files=max_files, max_fields=MAX_FIELDS)
    except (HTTPException, ValueError) as error:  # also by codecs that a part names
        reason = getattr(error, "detail", error)
        raise RequestError(400, f"the form cannot be read: {reason}", code="invalid_form") from error
    try:
        yield form
    finally:
        await form.close()


def read_image_facts(data: bytes, max_pixels: int | None) -> ImageFacts:
    """Read the header of an image that can be decoded.

    Args:
        data: the file.
        max_pixels: as of `oneclip.image.open_image`.

    Raises:
        ImageError: if it cannot be read after all.
    """
    opened = None
    with suppress(ImageError):  # damaged metadata, which decoding repairs
        opened = identify(io.BytesIO(data), "the image", pixel_limit(max_pixels))
    if opened is not None:
        return _facts(read_header(opened, opened.size), opened.mode)
    headers: list[ImageHeader] = []
    decoded = open_image(data, max_pixels=max_pixels, truncated="accept", inspect=headers.append)
    return _facts(headers[-1], decoded.mode)


def _facts(header: ImageHeader, mode: str) -> ImageFacts:
    """Return the facts of an image of one of Pillow's modes."""
    info = ImageMode.getmode(mode)
    bits = 1 if mode == "1" else 8 * np.dtype(info.typestr).itemsize * len(info.bands)
    return ImageFacts(header.width, header.height, header.format, bits)
