"""NumPy arrays and torch tensors alike: a result is of the kind that was given.

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
    """Take an array or a tensor as a tensor; integers of an array become int64.

    Raises:
        ShapeError: for anything else; it calls the argument by `name`.
    """
    if isinstance(values, Tensor):
        return values
    kind = values.dtype.kind if isinstance(values, np.ndarray) else ""
    if not isinstance(values, np.ndarray) or kind not in "biuf" or values.dtype.itemsize > 8:
        found = f"an array of {values.dtype}" if isinstance(values, np.ndarray) else type(values).__name__
        raise ShapeError(f"{name} is a NumPy array or a torch tensor of numbers; found {found}")
    whole = kind in "iu" and values.dtype.itemsize > 1
    return torch.tensor(np.ascontiguousarray(values, np.int64 if whole else values.dtype.newbyteorder("=")))


def like(given: Array, result: Tensor) -> Array:
    """A tensor as it is where a tensor was given, as a float32 array where an array was."""
    found: object = result if isinstance(given, Tensor) else result.float().cpu().numpy()
    return cast(Array, found)


def are_image_features(values: object, width: int) -> bool:
    """Whether these are features rather than images: a tensor, or an array (N, D) of floats, D known."""
    if isinstance(values, np.ndarray):
        return values.ndim == 2 and values.dtype.kind == "f" and values.shape[1] == width
    return isinstance(values, Tensor)


def are_text_features(values: object) -> bool:
    """Whether these are features rather than texts: a tensor, or an array of numbers."""
    return isinstance(values, Tensor) or (isinstance(values, np.ndarray) and values.dtype.kind in "biufc")


@torch.no_grad()
def cosines(images: object, texts: object, width: int) -> Tensor:
    """Features of any length (N, width) and (M, width) to cosines (N, M) in float32, where those of the images are.

    Raises:
        ShapeError: unless they are arrays or tensors of that shape, of floats.
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
            f"{name}_features is floats of shape (N, {width}), as encode_{name}s makes them; found "
            f"{tuple(features.shape)} of {dtype}"
        )
    return features
