"""Positions resized for other image sizes and context lengths; both sides of a comparison run this file."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

WIDTH = 24
GRIDS = {  # rows and columns, from and to
    "larger": ((4, 4), (6, 6)),
    "smaller": ((7, 7), (3, 3)),
    "not square": ((4, 4), (3, 8)),
    "same size": ((4, 4), (4, 4)),
}
LENGTHS = {"longer": (9, 77), "shorter": (77, 30), "same size": (9, 9)}


def positions(count: int) -> Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(count))


def visual_state(name: str) -> dict[str, Tensor]:
    (rows, columns), _ = GRIDS[name]
    return {"visual.positional_embedding": positions(1 + rows * columns)}


def text_state(name: str) -> dict[str, Tensor]:
    return {"positional_embedding": positions(LENGTHS[name][0])}


def observe(package: Any) -> dict[str, dict[str, Tensor]]:
    """Return the results of the published package."""
    images, texts = {}, {}
    for name, (_, grid) in GRIDS.items():
        state = visual_state(name)
        package.model.resize_pos_embed(state, SimpleNamespace(visual=SimpleNamespace(grid_size=grid)))
        images[name] = state["visual.positional_embedding"]
    for name, (_, length) in LENGTHS.items():
        state = text_state(name)
        package.model.resize_text_pos_embed(state, SimpleNamespace(positional_embedding=positions(length)))
        texts[name] = state["positional_embedding"]
    return {"images": images, "texts": texts}
