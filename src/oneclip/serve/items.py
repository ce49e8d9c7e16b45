"""Inputs of requests: texts and images in the notations of several protocols, to embeddings.

An item becomes one embedding. It has one text or one image, or several of them: then its embedding is the mean of their
unit vectors, normalized again. That is a convention of this server; no protocol says what such an item means.

Shapes: N items, D joint embedding.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from oneclip.errors import ImageError, ImageTooLargeError, TextTooLongError
from oneclip.serve.errors import ItemError, RequestError
from oneclip.serve.image_inputs import read_image_files
from oneclip.serve.url_images import ImageUrlError
from oneclip.serve.vectors import unit

if TYPE_CHECKING:
    from oneclip.encoder import Features
    from oneclip.serve.embedder import Embedder
    from oneclip.serve.settings import ServeSettings

T = TypeVar("T")
U = TypeVar("U")

MAX_PARTS = 2048  # OpenAI's limit of inputs
MAX_TEXT_CHARS = 100_000  # no model reads as much; a longer text would only occupy a processor

_TEXT_NUMBER = re.compile(r"^text \d+(?: \(and \d+ others\))?")  # among those of one batch
_TRUNCATED_HINT = re.compile(r"; to use the part that is left, .*$", re.DOTALL)  # an option of the library
_TOO_LONG_HINT = re.compile(r"; shorten it or allow truncation$")
_PART_KEYS = ("text", "image", "image_url")
_CODES = (
    (ImageUrlError, "invalid_image_url"),
    (ImageTooLargeError, "image_too_large"),
    (ImageError, "invalid_image"),
    (TextTooLongError, "context_length_exceeded"),
    (Exception, "invalid_text"),
)


class Part(NamedTuple):
    """Text or image of an item.

    Attributes:
        value: a text, or an image as bytes, data URI, base64 or URL.
        param: its name in the request, for errors.
        row: number of its item.
    """

    value: Any
    param: str
    row: int


class Items:
    """Items of a request.

    Args:
        settings: of the server. A request may not have more texts and images than may wait: it would never be accepted.

    Attributes:
        texts, images: parts of the items.
        count: N.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self.texts: list[Part] = []
        self.images: list[Part] = []
        self.count = 0
        self._settings = settings
        self._max_parts = min(MAX_PARTS, settings.max_queue)

    def begin(self) -> None:
        """Begin an item; what is added next belongs to it."""
        self.count += 1

    def add_text(self, text: object, param: str) -> None:
        """Add a text to the last item.

        Raises:
            RequestError: 400, if it is not a text that a model can read.
        """
        self._add(self.texts, check_text(text, param), param)

    def add_image(self, image: object, param: str) -> None:
        """Add an image to the last item: bytes, a data URI, base64 or a URL.

        Raises:
            RequestError: 400, if it is neither.
        """
        if not isinstance(image, bytes | str):
            raise bad_item(f"{param} must be a data URI, base64 or a URL; found {describe(image)}", param)
        self._add(self.images, image, param)

    def _add(self, parts: list[Part], value: str | bytes, param: str) -> None:
        if len(self.texts) + len(self.images) >= self._max_parts:
            raise bad_item(
                f"the request has more than {self._max_parts} texts and images; send several requests",
                param,
                "too_many_inputs",
            )
        parts.append(Part(value, param, self.count - 1))

    def add_parts(self, parts: Mapping[str, Any], param: str) -> None:
        """Add what an object holds to the last item.

        Args:
            parts: with "text", "image" or "image_url", or several of them; `image_url` may be an object with "url".
            param: its name in the request.

        Raises:
            RequestError: 400, if it has none of them.
        """
        found = [key for key in _PART_KEYS if parts.get(key) is not None]
        if not found:
            keys = ", ".join(map(repr, list(parts)[:8])) or "nothing"
            raise bad_item(
                f'{param} needs "text", "image" or "image_url"; found {keys[:200]}', param, "invalid_value"
            )
        for key in found:
            value = parts[key]
            if key == "text":
                self.add_text(value, param)
            else:
                self.add_image(value.get("url") if isinstance(value, dict) else value, param)

    def add_content(self, content: object, param: str) -> None:
        """Add the parts of a chat message to the last item: a text, or a list of objects as of `add_parts`.

        Raises:
            RequestError: 400, for anything else.
        """
        if isinstance(content, str):
            self.add_text(content, param)
            return
        if not isinstance(content, list) or not content:
            found = "an empty list" if content == [] else describe(content)
            raise bad_item(
                f"{param} must be a string or a list of parts; found {found}", param, "invalid_type"
            )
        for i, part in enumerate(content):
            name = f"{param}[{i}]"
            if not isinstance(part, dict):
                raise bad_item(f"{name} must be an object; found {describe(part)}", name, "invalid_type")
            self.add_parts(part, name)

    async def read_images(self, embedder: Embedder) -> None:
        """Replace data URIs, base64 and URLs by the files of the images.

        Raises:
            RequestError: 400, naming an image that cannot be read.
            DeadlineError: if the URLs took too long.
        """
        files = await read_images(self.images, embedder, self._settings)
        self.images = [image._replace(value=file) for image, file in zip(self.images, files, strict=True)]

    async def embed(self, embedder: Embedder, *, truncate: bool | None = None) -> tuple[Features, int]:
        """Encode the items.

        Args:
            embedder: of the server.
            truncate: the field of the request that lets texts be cut; None if it can have none.

        Returns:
            (N, D) float32 of unit length, and the number of tokens of all texts.

        Raises:
            RequestError: 400, with the name of the first item that cannot be encoded; and what the embedder raises.
        """
        if self.images and self.texts:
            images, (texts, counts) = await _both(
                self._embed_images(embedder), self._embed_texts(embedder, truncate)
            )
            features = np.concatenate([images, texts])
        elif self.images:
            features, counts = await self._embed_images(embedder), []
        else:
            features, counts = await self._embed_texts(embedder, truncate)
        return _item_means(features, [part.row for part in self.images + self.texts], self.count), sum(counts)

    async def _embed_images(self, embedder: Embedder) -> Features:
        await self.read_images(embedder)
        files = [image.value for image in self.images]
        return await naming_items(embedder.embed_images(files), [image.param for image in self.images])

    async def _embed_texts(self, embedder: Embedder, truncate: bool | None) -> tuple[Features, list[int]]:
        texts = [text.value for text in self.texts]
        params = [text.param for text in self.texts]
        encoding = embedder.embed_texts(texts, truncate=bool(truncate))
        return await naming_items(encoding, params, can_truncate=truncate is not None)


def check_text(text: object, param: str) -> str:
    """Return a text of a request.

    Raises:
        RequestError: 400, if it is not a string, empty, far too long, or not Unicode.
    """
    if not isinstance(text, str):
        raise bad_item(f"{param} must be a string; found {describe(text)}", param, "invalid_type")
    if not text:
        raise bad_item(f"{param} is an empty string", param, "invalid_value")
    if len(text) > MAX_TEXT_CHARS:
        raise bad_item(
            f"{param} has {len(text)} characters; at most {MAX_TEXT_CHARS} are accepted",
            param,
            "context_length_exceeded",
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise bad_item(f"{param} is not valid Unicode: {error.reason}", param, "invalid_value") from error
    if text.startswith("data:image/"):
        raise bad_item(f'{param} is a data URI in place of a text; send it as {{"image": …}}', param)
    return text


async def read_images(images: Sequence[Part], embedder: Embedder, settings: ServeSettings) -> list[bytes]:
    """Return the files of images that are given as bytes, data URIs, base64 or URLs.

    Raises:
        RequestError: 400, naming an image that cannot be read.
        DeadlineError: if the URLs took too long.
    """
    files = read_image_files([image.value for image in images], embedder, settings)
    return await naming_items(files, [image.param for image in images])


async def naming_items(
    encoding: Coroutine[Any, Any, T], params: Sequence[str], *, can_truncate: bool = False
) -> T:
    """Wait for what is made of images or texts, and answer the error of one with its name in the request.

    Args:
        encoding: what to wait for.
        params: names of the images or texts.
        can_truncate: whether the request may have a field "truncate".

    Raises:
        RequestError: 400, for an image or a text that cannot be read.
    """
    try:
        return await encoding
    except ItemError as error:
        raise item_error(error.error, params[error.index], can_truncate=can_truncate) from error


def item_error(error: Exception, param: str, *, can_truncate: bool = False) -> RequestError:
    """Return the answer for an image or a text that cannot be encoded, with advice that a client can follow."""
    code = next(code for kind, code in _CODES if isinstance(error, kind))
    message = _TEXT_NUMBER.sub("it", str(error), count=1)
    message = _TRUNCATED_HINT.sub("; send the complete file", message)
    cut = ', or allow truncation with the field "truncate"' if can_truncate else ""
    message = _TOO_LONG_HINT.sub(f"; shorten it{cut}", message)
    return RequestError(400, f"{param}: {message}", param=param, code=code)


async def _both(one: Coroutine[Any, Any, T], other: Coroutine[Any, Any, U]) -> tuple[T, U]:
    """Wait for two coroutines at once; if one raises, cancel the other."""
    tasks = asyncio.ensure_future(one), asyncio.ensure_future(other)
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def _item_means(features: Features, rows: Sequence[int], count: int) -> Features:
    """Return the mean of the unit vectors of each item, normalized.

    Args:
        features: (parts, D), the vectors of all parts.
        rows: for each part, the number of its item.
        count: N.
    """
    sums = np.zeros((count, features.shape[1]), np.float32)
    np.add.at(sums, list(rows), features)
    parts = np.bincount(rows, minlength=count)[:, None]
    return np.where(parts == 1, sums, unit(sums))  # the vector of one part stays as it is


def bad_item(message: str, param: str, code: str = "invalid_image") -> RequestError:
    """Return the answer for a text or an image that is not what it should be."""
    return RequestError(400, message, param=param, code=code)


def describe(value: object) -> str:
    """Say in JSON's words what a value is."""
    names = {type(None): "null", bool: "true or false", str: "a string", list: "a list", dict: "an object"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else "a file")
