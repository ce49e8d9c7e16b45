"""Resizing of position embeddings to the grid and context length of a model."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from torch import Tensor

from oneclip.checkpoint.interpolate_pos_embed import (
    TEXT_POS_EMBED,
    VISUAL_POS_EMBED,
    resize_grid,
    resize_sequence,
)
from oneclip.errors import CheckpointMismatchError
from open_clip.utils import to_2tuple

__all__ = ["resize_pos_embed", "resize_text_pos_embed"]


def resize_pos_embed(
    state_dict: MutableMapping[str, Tensor],
    model: Any,
    interpolation: str = "bicubic",
    antialias: bool = True,
) -> None:
    """Resize the visual positions of a state dict to a model's grid, in place; the class token's position is kept.

    Raises:
        CheckpointError: if they do not form a square grid.
    """
    if VISUAL_POS_EMBED in state_dict and hasattr(model.visual, "grid_size"):
        rows, columns = to_2tuple(model.visual.grid_size)
        state_dict[VISUAL_POS_EMBED] = resize_grid(
            state_dict[VISUAL_POS_EMBED], (rows, columns), mode=interpolation, antialias=antialias
        )


def resize_text_pos_embed(
    state_dict: MutableMapping[str, Tensor],
    model: Any,
    interpolation: str = "linear",
    antialias: bool = False,
) -> None:
    """Resize the text positions of a state dict to a model's context length, in place.

    Args:
        antialias: accepted for compatibility; has no effect in one dimension.

    Raises:
        CheckpointMismatchError: if they have another width.
    """
    towers: tuple[Any, ...] = (model, getattr(model, "text", None))
    own = next(
        (tower.positional_embedding for tower in towers if hasattr(tower, "positional_embedding")), None
    )
    for key in TEXT_POS_EMBED:
        if own is None or key not in state_dict:
            continue
        positions = state_dict[key]
        if positions.shape[-1] != own.shape[-1]:
            raise CheckpointMismatchError(
                "the state dict", reshaped=[(key, (*positions.shape,), (*own.shape,))]
            )
        state_dict[key] = resize_sequence(positions, len(own), mode=interpolation)
