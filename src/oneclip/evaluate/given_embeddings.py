"""Embeddings that a caller gives in place of images.

Shapes: N images, D joint embedding.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from oneclip.errors import ShapeError


def given_embeddings(images: object, dim: int) -> NDArray[np.float32] | None:
    """Return embeddings at unit length, (N, D) float32; None for images.

    Embeddings are an array or tensor of floats with one or two axes, or a list of vectors.

    Args:
        images: what the caller gave.
        dim: D, that is expected.

    Raises:
        ShapeError: for embeddings of another shape, or that are not finite.
    """
    if isinstance(images, (list, tuple)):
        rows = [_floats(one) for one in images]
        found = [row for row in rows if row is not None and row.ndim == 1]
        if not found or len(found) < len(images):
            return None
        widths = sorted({len(row) for row in found})
        if len(widths) > 1:
            raise ShapeError(
                f"the embeddings have {' and '.join(map(str, widths))} dimensions; expected {dim}"
            )
        values = np.stack(found)
    else:
        array = _floats(images)
        if array is None or array.ndim not in (1, 2):
            return None
        if array.ndim == 1:
            raise ShapeError(
                f"found one vector of {len(array)} numbers; expected embeddings (N, {dim}): give vector[None] for one"
            )
        values = array
    if values.shape[1] != dim:
        raise ShapeError(f"embeddings have {values.shape[1]} dimensions, the probe expects {dim}")
    embeddings: NDArray[np.float32] = values.astype(np.float32)
    wrong = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if len(wrong):
        raise ShapeError(f"embedding {wrong[0]} has values that are not finite; expected numbers")
    embeddings /= np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    return embeddings


def _floats(values: object) -> NDArray[np.floating] | None:
    """Return an array or tensor of floats as an array; None for anything else."""
    if isinstance(values, Tensor):
        return values.detach().cpu().double().numpy() if values.is_floating_point() else None
    return values if isinstance(values, np.ndarray) and values.dtype.kind == "f" else None
