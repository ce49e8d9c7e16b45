"""Near-copies: held-out images that are nearly equal to a training image.

Each alpha map is cropped to what is drawn, scaled to 24 x 24 and compared by correlation.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

SIDE = 24
THRESHOLD = 0.90
BLOCK = 8192


def descriptors(alpha: NDArray[np.uint8]) -> Tensor:
    """Compute normalized small alpha maps.

    Args:
        alpha: (N, 64, 64) uint8.

    Returns:
        (N, 576) float32, zero mean and unit length, so that a product is a correlation.
    """
    parts = [
        _describe(torch.from_numpy(alpha[start : start + BLOCK])) for start in range(0, len(alpha), BLOCK)
    ]
    return torch.cat(parts) if parts else torch.zeros(0, SIDE * SIDE)


def _describe(alpha: Tensor) -> Tensor:
    drawn = alpha > 32
    low_x, high_x = _extent(drawn.any(1))
    low_y, high_y = _extent(drawn.any(2))
    scale = torch.maximum(high_x - low_x, high_y - low_y) / 64 * 1.05
    centre_x, centre_y = (low_x + high_x) / 64 - 1, (low_y + high_y) / 64 - 1
    zero = torch.zeros_like(scale)
    rows = torch.stack([scale, zero, centre_x, zero, scale, centre_y], 1).view(-1, 2, 3)
    grid = F.affine_grid(rows, [len(alpha), 1, 2 * SIDE, 2 * SIDE], align_corners=False)
    small = F.grid_sample(alpha[:, None].float(), grid, align_corners=False)
    small = F.avg_pool2d(small, 2)
    small = F.avg_pool2d(small, 3, 1, 1).flatten(1)  # tolerates a shift by a pixel
    return F.normalize(small - small.mean(1, keepdim=True), dim=1)


def _extent(drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first and one past the last drawn column of (N, 64) booleans, as floats."""
    drawn = drawn.float()
    return drawn.argmax(1).float(), 64 - drawn.flip(1).argmax(1).float()


def best_match(queries: Tensor, pool: Tensor) -> tuple[Tensor, Tensor]:
    """Find the nearest image of the pool for each query.

    Args:
        queries: (Q, D) descriptors.
        pool: (P, D) descriptors.

    Returns:
        (Q,) correlations and (Q,) indices into the pool.
    """
    best = torch.full((len(queries),), -1.0)
    index = torch.zeros(len(queries), dtype=torch.int64)
    for start in range(0, len(pool), BLOCK):
        value, where = (queries @ pool[start : start + BLOCK].T).max(1)
        better = value > best
        best = torch.where(better, value, best)
        index = torch.where(better, where + start, index)
    return best, index
