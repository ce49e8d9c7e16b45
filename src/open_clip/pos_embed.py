"""`open_clip.pos_embed`: sine-cosine position embeddings in two dimensions (Vaswani et al. 2017)."""

from __future__ import annotations

import math
from collections.abc import MutableMapping
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from oneclip.checkpoint.interpolate_pos_embed import resize_grid
from oneclip.errors import ConfigError

__all__ = [
    "get_1d_sincos_pos_embed_from_grid",
    "get_2d_sincos_pos_embed",
    "get_2d_sincos_pos_embed_from_grid",
    "interpolate_pos_embed",
]

Array = npt.NDArray[Any]


def get_2d_sincos_pos_embed(embed_dim: int, grid_size: int, cls_token: bool = False) -> Array:
    """Compute the position embeddings of a square grid, row by row.

    Args:
        embed_dim: C, divisible by four.
        grid_size: G, patches per side.
        cls_token: add a first row of zeros.

    Returns:
        (G * G, C) float64, or (1 + G * G, C).
    """
    columns, rows = np.meshgrid(*[np.arange(grid_size, dtype=np.float32)] * 2)
    table = get_2d_sincos_pos_embed_from_grid(embed_dim, np.stack([columns, rows]))
    return np.concatenate([np.zeros((1, embed_dim)), table]) if cls_token else table


def get_2d_sincos_pos_embed_from_grid(embed_dim: int, grid: Array) -> Array:
    """Embed the coordinates (2, ...) of M positions as (M, C), half of C for each coordinate."""
    halves = [get_1d_sincos_pos_embed_from_grid(embed_dim // 2, coordinate) for coordinate in grid[:2]]
    return np.concatenate(halves, axis=1)


def get_1d_sincos_pos_embed_from_grid(embed_dim: int, pos: Array) -> Array:
    """Embed M positions, of any shape, as (M, C): sines, then cosines, of wavelengths from 1 to 10,000.

    Raises:
        ConfigError: if C is odd.
    """
    if embed_dim % 2:
        raise ConfigError(
            f"embed_dim is {embed_dim}; expected an even number, since sines and cosines come in pairs"
        )
    frequencies = 10_000.0 ** (-np.arange(embed_dim // 2, dtype=np.float64) / (embed_dim / 2))
    angles = np.outer(np.reshape(pos, -1), frequencies)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def interpolate_pos_embed(model: Any, checkpoint_model: MutableMapping[str, Tensor]) -> None:
    """Resize the `pos_embed` (1, T + P, C) of a state dict to the square grid of a vision transformer, in place.

    Args:
        model: has `pos_embed` and `patch_embed.num_patches`, like timm's models.
        checkpoint_model: the state dict.

    Raises:
        CheckpointError: if its positions do not form a square grid.
    """
    if "pos_embed" in checkpoint_model:
        patches = model.patch_embed.num_patches
        prefix, side = model.pos_embed.shape[-2] - patches, math.isqrt(patches)
        positions = resize_grid(
            checkpoint_model["pos_embed"][0], (side, side), prefix, "pos_embed", antialias=False
        )
        checkpoint_model["pos_embed"] = positions[None]
