"""NumPy arrays and torch tensors as inputs; a result has the type of the input.

Shapes: N images, M texts, D joint embedding.
"""

from __future__ import annotations

from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oneclip.engine import normalized
from oneclip.errors import ShapeError

Array = TypeVar("Array", NDArray[Any], Tensor)


def as_tensor(values: object, name: str) -> Tensor:
    """Convert an array to a tensor, integers to int64; a tensor is returned unchanged.

    Raises:
        ShapeError: for anything else; its message contains the argument's `name`.
    """
    if isinstance(values, Tensor):
        return values
    kind = values.dtype.kind if isinstance(values, np.ndarray) else ""
    if not isinstance(values, np.ndarray) or kind not in "biuf" or values.dtype.itemsize > 8:
        found = f"an array of {values.dtype}" if isinstance(values, np.ndarray) else type(values).__name__
        raise ShapeError(f"{name} must be a NumPy array or a torch tensor of numbers; found {found}")
    is_integer = kind in "iu" and values.dtype.itemsize > 1
    dtype = np.int64 if is_integer else values.dtype.newbyteorder("=")
    return torch.tensor(np.ascontiguousarray(values, dtype))


def match_type(given: Array, result: Tensor) -> Array:
    """Return a tensor unchanged if `given` is a tensor, as a float32 array if `given` is an array."""
    found: object = result if isinstance(given, Tensor) else result.float().cpu().numpy()
    return cast(Array, found)


def are_image_features(values: object, width: int) -> bool:
    """Return whether these are features instead of images: a tensor, or an array of floats (N, width)."""
    if isinstance(values, np.ndarray):
        return values.ndim == 2 and values.dtype.kind == "f" and values.shape[1] == width
    return isinstance(values, Tensor)


def are_text_features(values: object) -> bool:
    """Return whether these are features instead of texts: a tensor, or an array of numbers."""
    return isinstance(values, Tensor) or (isinstance(values, np.ndarray) and values.dtype.kind in "biufc")


@torch.no_grad()
def cosine_similarity(images: object, texts: object, width: int) -> Tensor:
    """Compute the cosines (N, M), float32, of features (N, width) and (M, width), on the device of the images.

    Raises:
        ShapeError: unless both are arrays or tensors of floats of that shape.
    """
    one, other = (
        normalized(_features(given, name, width)) for name, given in (("image", images), ("text", texts))
    )
    return one @ other.to(one.device).T


def _features(given: object, name: str, width: int) -> Tensor:
    features = as_tensor(given, f"{name}_features")
    if features.ndim != 2 or features.shape[1] != width or not features.is_floating_point():
        dtype = str(features.dtype).removeprefix("torch.")
        raise ShapeError(
            f"{name}_features must be floats of shape (N, {width}), as encode_{name}s returns them; found "
            f"{tuple(features.shape)} of {dtype}"
        )
    return features
