"""Images in the strings of requests: data URIs, base64 and URLs, to the bytes of files."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from pydantic import ConfigDict, TypeAdapter, ValidationError

from oneclip.errors import ImageError
from oneclip.serve.errors import DeadlineError, ItemError
from oneclip.serve.url_images import UrlFetcher

if TYPE_CHECKING:
    from oneclip.serve.embedder import Embedder
    from oneclip.serve.settings import ServeSettings

FETCH_THREADS = 16

_FETCH_POOL = ThreadPoolExecutor(FETCH_THREADS, thread_name_prefix="oneclip-fetch")
_DATA_URI = re.compile(r"\s*data:(?P<type>[^,;]*)(?P<parameters>[^,]*),", re.IGNORECASE)
_SCHEME = re.compile(r"\s*(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*):")
_UNKNOWN_TYPES = ("", "application/octet-stream", "binary/octet-stream")
_TO_STANDARD_ALPHABET = str.maketrans("-_", "+/")
_BASE64 = TypeAdapter(bytes, config=ConfigDict(val_json_bytes="base64"))  # five times as fast as `binascii`


async def read_image_files(
    images: Sequence[str | bytes], embedder: Embedder, settings: ServeSettings
) -> list[bytes]:
    """Return the files of images that are given as bytes, data URIs, base64 or URLs.

    Base64 is decoded in the pool of the embedder. URLs are fetched in threads of their own, so that slow hosts delay
    no other request.

    Raises:
        ItemError: for an image that cannot be read.
        DeadlineError: if the URLs take longer than a request may.
    """
    if all(isinstance(image, bytes) for image in images):
        return list(images)  # type: ignore[arg-type]
    urls = [i for i, image in enumerate(images) if is_url(image)]
    files: list[bytes] = await embedder.run(_decode_all, images)
    if urls:
        fetcher = UrlFetcher(settings.allow_urls, settings.max_body, settings.timeout)
        for i, file in zip(urls, await _fetch_all(fetcher, images, urls, settings.timeout), strict=True):
            files[i] = file
    return files


def is_url(image: str | bytes) -> bool:
    """Return whether an image is given by its URL."""
    return isinstance(image, str) and image[:100].lstrip().lower().startswith(("http://", "https://"))


def decode_image(image: str | bytes) -> bytes:
    """Return the file of an image in a data URI or base64: with or without padding, in either alphabet.

    Raises:
        ImageError: if it is neither.
    """
    if isinstance(image, bytes):
        return image
    if uri := _DATA_URI.match(image):
        media_type = uri["type"].strip().lower()
        if not media_type.startswith("image/") and media_type not in _UNKNOWN_TYPES:
            raise ImageError(f"the data URI is of type {media_type[:100]!r}; expected data:image/…")
        content = image[uri.end() :]
        if "base64" in uri["parameters"].lower().replace(" ", "").split(";"):
            return _decode_base64(content)
        return unquote_to_bytes(content.encode(errors="replace"))
    if scheme := _SCHEME.match(image):
        name = scheme["scheme"][:20]
        raise ImageError(f"it begins with {name}:; expected a data URI, base64, https:// or http://")
    return _decode_base64(image)


def _decode_base64(text: str) -> bytes:
    try:
        return _BASE64.validate_strings(text)
    except ValidationError:
        pass
    plain = text
    if "%" in plain:  # as in the query of a URL
        plain = unquote_to_bytes(plain.encode(errors="replace")).decode("ascii", errors="replace")
    try:
        return _BASE64.validate_strings("".join(plain.split()).translate(_TO_STANDARD_ALPHABET).rstrip("="))
    except ValidationError as error:
        start = text[:40] + ("…" if len(text) > 40 else "")
        raise ImageError(f"it is neither a data URI, base64 nor a URL: {start!r}") from error


def _decode_all(images: Sequence[str | bytes]) -> list[bytes]:
    """Decode all images but those behind URLs, for which nothing is returned yet."""
    files = []
    for index, image in enumerate(images):
        try:
            files.append(b"" if is_url(image) else decode_image(image))
        except ImageError as error:
            raise ItemError(index, error) from error
    return files


async def _fetch_all(
    fetcher: UrlFetcher, images: Sequence[str | bytes], urls: Sequence[int], timeout: float
) -> list[bytes]:
    def fetch(index: int) -> bytes:
        try:
            return fetcher.fetch(str(images[index]).strip())
        except ImageError as error:
            raise ItemError(index, error) from error

    loop = asyncio.get_running_loop()
    tasks = [loop.run_in_executor(_FETCH_POOL, fetch, index) for index in urls]
    try:
        return await asyncio.wait_for(asyncio.gather(*tasks), timeout)
    except asyncio.TimeoutError as error:
        raise DeadlineError(timeout) from error
    finally:
        for task in tasks:
            task.cancel()
