"""Convert embeddings to the forms that clients request: fewer dimensions, base64, integers, bits.

Shapes: N embeddings, D numbers each.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from oneclip.serve.errors import RequestError

if TYPE_CHECKING:
    from oneclip.encoding import BaseEncoder, Features


def unit(features: Features) -> Features:
    """Return vectors (N, D) of unit length."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    normalized: Features = features / np.maximum(lengths, np.finfo(np.float32).tiny)
    return normalized


def check_dimensions(dimensions: int | None, encoder: BaseEncoder, param: str) -> None:
    """Raise RequestError (400) if embeddings have fewer numbers than are requested, or not even one is."""
    if dimensions is not None and not 1 <= dimensions <= encoder.embed_dim:
        raise RequestError(
            400,
            f"{param} is {dimensions}; the embeddings of {encoder.name} have {encoder.embed_dim} numbers",
            param=param,
            code="invalid_value",
        )


def cut(features: Features, dimensions: int | None) -> Features:
    """Return the first numbers of embeddings, normalized again; None for all numbers."""
    if dimensions is None or dimensions == features.shape[1]:
        return features
    return unit(features[:, :dimensions])


def to_bytes(features: Features) -> bytes:
    """Return embeddings as little-endian 32-bit floats, row after row."""
    return features.astype("<f4", copy=False).tobytes()


def to_base64(features: Features) -> list[str]:
    """Return each embedding as the base64 of little-endian 32-bit floats."""
    return [base64.b64encode(to_bytes(row)).decode("ascii") for row in features]


def to_int8(features: Features) -> NDArray[np.int8]:
    """Return embeddings (N, D) as integers from -127 to 127: round(127 x / max |x|), of each embedding by itself.

    A vector so does not depend on others, as it does where the range of each dimension is taken from the batch or from
    a sample. Its length is lost, not its direction: compare such vectors by their cosine.
    """
    greatest = np.abs(features).max(axis=1, keepdims=True)
    scaled: Features = features * (127 / np.maximum(greatest, np.finfo(np.float32).tiny))
    return np.rint(scaled).astype(np.int8)


def to_uint8(features: Features) -> NDArray[np.uint8]:
    """Return embeddings (N, D) as integers from 1 to 255: those of `to_int8` plus 128, which is 0 there."""
    return (to_int8(features).astype(np.int16) + 128).astype(np.uint8)


def to_ubinary(features: Features) -> NDArray[np.uint8]:
    """Return a bit for each number of embeddings, 1 for positive: (N, ceil(D / 8)) bytes, the first bit the highest.

    As sentence-transformers packs them; D that is not a multiple of 8 is filled with zeros.
    """
    return np.packbits(features > 0, axis=1)


def to_binary(features: Features) -> NDArray[np.int8]:
    """Return the bytes of `to_ubinary` minus 128, as sentence-transformers gives signed bytes."""
    return (to_ubinary(features).astype(np.int16) - 128).astype(np.int8)


EMBEDDING_TYPES: Mapping[str, Callable[[Features], Any]] = {
    "float": lambda features: features,
    "int8": to_int8,
    "uint8": to_uint8,
    "binary": to_binary,
    "ubinary": to_ubinary,
    "base64": to_base64,
}
"""Cohere's names of the forms of an embedding."""
