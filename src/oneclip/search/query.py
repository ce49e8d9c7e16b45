"""Queries of a search: words or images, with weights."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from oneclip.errors import ConfigError, ImageError, TextError, TextTooLongError
from oneclip.hub.file_types import is_image

if TYPE_CHECKING:
    from oneclip.embed.rows import EmbeddingMetadata
    from oneclip.encoding import BaseEncoder, Features

_WEIGHT = re.compile(r"(\d+(?:\.\d+)?|\.\d+):(?=\S|$)")
MAX_WEIGHT = 1000.0


@dataclass(frozen=True)
class Query:
    """One part of a search.

    Attributes:
        value: a text, or an image as `Encoder.encode_images` takes it.
        is_text: whether it is a text.
        weight: of its score among those of the other parts; negative for what should not be there.
    """

    value: Any
    is_text: bool
    weight: float = 1.0


def parse_queries(
    queries: Iterable[object],
    like: object = None,
    exclude: object = None,
) -> list[Query]:
    """Turn the arguments of a search into queries.

    Args:
        queries: words; paths of images that exist; images. `2:beach` gives "beach" the weight 2.
        like: an image, or several.
        exclude: words or images that should not be there, with or without a weight.

    Raises:
        TextError: for an empty text.
        ConfigError: if there is no query, or only of what should not be there.
    """
    found = [_parse(query) for query in queries]
    found += [_parse(image, is_image_expected=True) for image in _several(like)]
    if not any(query.weight > 0 for query in found):
        raise ConfigError("a search needs words or an image to look for")
    for query in map(_parse, _several(exclude)):
        found.append(Query(query.value, query.is_text, -query.weight))
    return found


def check_search(queries: Sequence[Query], *, top_k: int, sort: str, min_relevance: float | None) -> None:
    """Check the other arguments of a search.

    Raises:
        ConfigError: naming the first that is not valid.
    """
    if not isinstance(top_k, (int, np.integer)) or top_k < 1:
        raise ConfigError(f"top_k is {top_k!r}; expected a whole number of at least 1")
    if sort not in ("relevance", "date"):
        raise ConfigError(f"sort is {sort!r}; expected 'relevance' or 'date'")
    is_number = isinstance(min_relevance, (int, float, np.number))
    if min_relevance is not None and not (is_number and 0 <= min_relevance <= 1):
        raise ConfigError(f"min_relevance is {min_relevance!r}; expected a number between 0 and 1")
    if min_relevance is not None and not any(query.is_text and query.weight > 0 for query in queries):
        raise ConfigError("a search for images alone has no relevance; leave out min_relevance")


def require_same_model(
    location: str, found: EmbeddingMetadata, metadata: EmbeddingMetadata, way_out: str
) -> None:
    """Check that queries and stored embeddings have the same model and settings.

    Args:
        location: of the embeddings, for the message.
        found: settings of the embeddings.
        metadata: settings of the queries.
        way_out: what to do to use the other model.

    Raises:
        ConfigError: naming the differences.
    """
    different = metadata.differences(found)
    if different:
        raise ConfigError(
            f"{location} was made by {found.model} with other settings ({'; '.join(different)}). "
            f"Leave out the model to use that one, or {way_out}"
        )


def encode_queries(encoder: BaseEncoder, queries: Sequence[Query]) -> Features:
    """Encode queries.

    Returns:
        (Q, D) float32 of unit length.

    Raises:
        TextError, ImageError: for a query that cannot be encoded.
    """
    vectors = np.empty((len(queries), encoder.embed_dim), np.float32)
    texts = [i for i, query in enumerate(queries) if query.is_text]
    images = [i for i, query in enumerate(queries) if not query.is_text]
    if texts:
        try:
            vectors[texts] = encoder.encode_texts([queries[i].value for i in texts])
        except TextTooLongError as error:
            raise TextTooLongError(
                f"a query has more than the {encoder.context_length} tokens that {encoder.name} reads; shorten it"
            ) from error
    if images:
        vectors[images] = encoder.encode_images([queries[i].value for i in images])
    return vectors


def parse_text(text: str) -> Query:
    """Turn words into a query, without a look at the file system; `2:beach` gives "beach" the weight 2.

    Raises:
        TextError: for an empty text.
        ConfigError: for a weight that is not valid.
    """
    weight, words = 1.0, text
    if match := _WEIGHT.match(text):
        weight, words = float(match[1]), text[match.end() :]
        if not 0 < weight <= MAX_WEIGHT:
            raise ConfigError(
                f"the weight of {words!r} is {match[1]}; leave the query out, or give it a weight above 0 and at most "
                f"{MAX_WEIGHT:.0f}"
            )
    if not words.strip():
        raise TextError("an empty query; give words that describe an image, or the path of one")
    return Query(words, is_text=True, weight=weight)


def _parse(value: object, *, is_image_expected: bool = False) -> Query:
    if not isinstance(value, str):
        return Query(value, is_text=False)
    query = Query(value, is_text=True) if os.path.exists(value) else parse_text(value)
    path = os.path.expanduser(query.value)  # shells leave the ~ of 2:~/cat.jpg
    if os.path.isfile(path) and (is_image(path) or is_image_expected):
        return Query(path, is_text=False, weight=query.weight)
    if is_image_expected:
        raise ImageError(f"{query.value}: no such image")
    return query


def _several(value: object) -> list[object]:
    """Return one value or several as a list."""
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]
