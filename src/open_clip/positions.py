"""Positions of a state dict to the grid and the context length of a model."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from torch import Tensor

from oneclip.checkpoint.interpolate_pos_embed import TEXT, VISUAL, resize_grid, resize_line
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
        CheckpointError: if they are of no square grid.
    """
    if VISUAL in state_dict and hasattr(model.visual, "grid_size"):
        rows, columns = to_2tuple(model.visual.grid_size)
        state_dict[VISUAL] = resize_grid(
            state_dict[VISUAL], (rows, columns), mode=interpolation, antialias=antialias
        )


def resize_text_pos_embed(
    state_dict: MutableMapping[str, Tensor],
    model: Any,
    interpolation: str = "linear",
    antialias: bool = False,
) -> None:
    """Resize the positions of a state dict's text tower to a model's context length, in place.

    Args:
        antialias: accepted for older programs; no way of resizing in one dimension has it.

    Raises:
        CheckpointMismatchError: if they are of another width.
    """
    towers: tuple[Any, ...] = (model, getattr(model, "text", None))
    own = next(
        (tower.positional_embedding for tower in towers if hasattr(tower, "positional_embedding")), None
    )
    for key in TEXT:
        if own is None or key not in state_dict:
            continue
        positions = state_dict[key]
        if positions.shape[-1] != own.shape[-1]:
            raise CheckpointMismatchError(
                "the state dict", reshaped=[(key, (*positions.shape,), (*own.shape,))]
            )
        state_dict[key] = resize_line(positions, len(own), mode=interpolation)
