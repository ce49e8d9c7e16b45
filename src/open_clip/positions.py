"""Positions of a state dict to the grid and the context length of a model."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from oneclip.errors import CheckpointMismatchError
from open_clip.utils import to_2tuple

__all__ = ["resize_pos_embed", "resize_text_pos_embed"]


def resize_pos_embed(
    state_dict: MutableMapping[str, Tensor],
    model: Any,
    interpolation: str = "bicubic",
    antialias: bool = True,
) -> None:
    """Resize the positions of a state dict's visual tower to a model's grid, in place; the class token's stays.

    Raises:
        CheckpointMismatchError: if they were of no square grid.
    """
    key = "visual.positional_embedding"
    if key not in state_dict or not hasattr(model.visual, "grid_size"):
        return
    positions, grid = state_dict[key], tuple(to_2tuple(model.visual.grid_size))
    wanted = (1 + grid[0] * grid[1], positions.shape[-1])
    if tuple(positions.shape) == wanted:
        return
    side = round((len(positions) - 1) ** 0.5)
    if side * side != len(positions) - 1:
        raise CheckpointMismatchError("the state dict", reshaped=[(key, tuple(positions.shape), wanted)])
    table = positions[1:].T.reshape(1, -1, side, side)  # (1, C, H, W)
    table = F.interpolate(
        table.float(), size=grid, mode=interpolation, antialias=antialias, align_corners=False
    )
    state_dict[key] = torch.cat([positions[:1], table.flatten(2)[0].T.to(positions.dtype)])


def resize_text_pos_embed(
    state_dict: MutableMapping[str, Tensor],
    model: Any,
    interpolation: str = "linear",
    antialias: bool = False,
) -> None:
    """Resize the positions of a state dict's text tower to a model's context length, in place.

    Raises:
        CheckpointMismatchError: if they are of another width.
    """
    key = "positional_embedding" if "positional_embedding" in state_dict else "text.positional_embedding"
    own = getattr(model, "positional_embedding", None)
    own = getattr(getattr(model, "text", None), "positional_embedding", None) if own is None else own
    if key not in state_dict or own is None or state_dict[key].shape == own.shape:
        return
    positions, (length, width) = state_dict[key], own.shape
    if positions.shape[-1] != width:
        raise CheckpointMismatchError(
            "the state dict", reshaped=[(key, tuple(positions.shape), (length, width))]
        )
    table = F.interpolate(positions.T[None].float(), size=length, mode=interpolation, antialias=antialias)
    state_dict[key] = table[0].T.to(positions.dtype)
