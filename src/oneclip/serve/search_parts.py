"""Parts of a search request: words, and images that are sent or that are in the index. No text becomes a path.

Shapes: Q parts, D joint embedding.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from oneclip.errors import ConfigError, TextError
from oneclip.search.query import Query, check_search, parse_text
from oneclip.serve.errors import RequestError
from oneclip.serve.items import Part, bad_item, check_text, describe, naming_items, read_images

if TYPE_CHECKING:
    from oneclip.encoder import Features
    from oneclip.serve.embedder import Embedder
    from oneclip.serve.indexes import ServedIndexes
    from oneclip.serve.served_index import ServedIndex

MAX_PARTS = 64
_SHA256 = re.compile(r"[0-9a-f]{64}")
_IMAGE_START = re.compile(r"(data:|https?://)", re.IGNORECASE)


class SearchPart(NamedTuple):
    """Part of a search request.

    Attributes:
        kind: "text" for words, "image" for an image that is sent, "indexed" for the SHA-256 of one in the index.
        value: the words, the image as bytes, data URI, base64 or URL, or the digits of the SHA-256.
        param: its name in the request, for errors.
        weight: see `oneclip.search.query.Query`.
    """

    kind: Literal["text", "image", "indexed"]
    value: Any
    param: str
    weight: float = 1.0


def parse_parts(query: Any, like: Any, exclude: Any, min_relevance: float | None) -> list[SearchPart]:
    """Check the parts of a request; no part means all images.

    Args:
        query: words, or several.
        like: an image, or several.
        exclude: words or images that should not be there; `not` in the request.
        min_relevance: needs words to be relevant for.

    Raises:
        RequestError: 400, naming the part that is not valid.
    """
    parts = [] if query == "" else [_parse_words(*one) for one in _several(query, "query")]
    parts += [parse_image(*one) for one in _several(like, "like")]
    is_asked = bool(parts)
    for value, param in _several(exclude, "not"):
        is_text = isinstance(value, str) and not _IMAGE_START.match(value)
        part = _parse_words(value, param) if is_text else parse_image(value, param)
        parts.append(part._replace(weight=-part.weight))
    if parts and not is_asked:
        raise bad_item("not needs words or an image to look for besides", "not", "invalid_value")
    if len(parts) > MAX_PARTS:
        raise bad_item(
            f"the search has {len(parts)} parts; at most {MAX_PARTS} are accepted", "query", "too_many"
        )
    try:
        queries = [Query(part.value, part.kind == "text", part.weight) for part in parts]
        check_search(queries, top_k=1, sort="relevance", min_relevance=min_relevance)
    except ConfigError as error:
        raise bad_item(str(error), "min_relevance", "invalid_value") from error
    return parts


def _several(value: Any, param: str) -> list[tuple[Any, str]]:
    """Return one value or several, each with its name in the request."""
    if value is None:
        return []
    if isinstance(value, list):
        return [(one, f"{param}[{i}]") for i, one in enumerate(value)]
    return [(value, param)]


def _parse_words(value: Any, param: str) -> SearchPart:
    text = check_text(value, param)
    try:
        query = parse_text(text)
    except TextError as error:
        raise bad_item(
            f"{param} is empty; give words that describe an image", param, "invalid_value"
        ) from error
    except ConfigError as error:
        raise bad_item(f"{param}: {error}", param, "invalid_value") from error
    return SearchPart("text", query.value, param, query.weight)


def parse_image(value: Any, param: str) -> SearchPart:
    """Check an image of a request: one that is sent, or `{"sha256": …}` for one of the index.

    Raises:
        RequestError: 400, if it is neither.
    """
    if isinstance(value, str):
        return SearchPart("image", value, param)
    if not isinstance(value, dict) or len(value) != 1 or not {"sha256", "image"} & value.keys():
        raise bad_item(
            f'{param} must be a data URI, base64, a URL or {{"sha256": …}}; found {describe(value)}',
            param,
            "invalid_type",
        )
    if isinstance(image := value.get("image"), str):
        return SearchPart("image", image, f"{param}.image")
    sha256 = value.get("sha256")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise bad_item(f"{param}.sha256 must have 64 hexadecimal digits", f"{param}.sha256", "invalid_value")
    return SearchPart("indexed", sha256, param)


async def encode_parts(
    parts: Sequence[SearchPart], index: ServedIndex, indexes: ServedIndexes, embedder: Embedder
) -> tuple[list[Query], Features]:
    """Encode the parts of a request, unless they were encoded a moment ago.

    Returns:
        Q queries whose values tell them from all others, and (Q, D) float32 embeddings.

    Raises:
        RequestError: 400, naming the part that cannot be encoded; and what the embedder raises.
    """
    files = await _read(parts, embedder)
    digests = await indexes.run(_digests, list(files.values())) if files else []
    values = {i: part.value for i, part in enumerate(parts)} | dict(zip(files, digests, strict=True))
    keys = [(part.kind, values[i]) for i, part in enumerate(parts)]
    vectors = [indexes.vectors.get(key) for key in keys]
    for kind in ("text", "image", "indexed"):
        missing = [i for i, part in enumerate(parts) if part.kind == kind and vectors[i] is None]
        if not missing:
            continue
        params = [parts[i].param for i in missing]
        if kind == "text":
            found, _ = await naming_items(embedder.embed_texts([values[i] for i in missing]), params)
        elif kind == "image":
            found = await naming_items(embedder.embed_images([files[i] for i in missing]), params)
        else:
            found = await indexes.run(_stored_vectors, index, [parts[i] for i in missing])
        for i, vector in zip(missing, found, strict=True):
            vectors[i] = vector
            if kind != "indexed":
                indexes.vectors.put(keys[i], vector)
    queries = [Query(key, part.kind == "text", part.weight) for key, part in zip(keys, parts, strict=True)]
    return queries, np.array(vectors, np.float32).reshape(len(parts), embedder.encoder.embed_dim)


async def _read(parts: Sequence[SearchPart], embedder: Embedder) -> dict[int, bytes]:
    """Return the files of the images that are sent, by place."""
    sent = [i for i, part in enumerate(parts) if part.kind == "image"]
    if not sent:
        return {}
    images = [Part(parts[i].value, parts[i].param, row) for row, i in enumerate(sent)]
    return dict(zip(sent, await read_images(images, embedder, embedder.settings), strict=True))


def _digests(files: Sequence[bytes]) -> list[str]:
    return [hashlib.sha256(file).hexdigest() for file in files]


def _stored_vectors(index: ServedIndex, parts: Sequence[SearchPart]) -> Features:
    found = []
    for part in parts:
        vector = index.search.stored_vector(part.value)
        if vector is None:
            raise RequestError(
                400,
                f"{part.param}: no image of the index {index.name} has the sha256 {part.value}",
                param=part.param,
                code="unknown_image",
            )
        found.append(vector)
    return np.stack(found)
