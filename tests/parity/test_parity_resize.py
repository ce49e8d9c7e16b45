"""Resized positions are bit-identical to those of open_clip_torch 3.3.0."""

from __future__ import annotations

from typing import Any

import cases_resize
import pytest
import torch

from oneclip.checkpoint import resize_positions
from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg


def cfg(grid: tuple[int, int] = (4, 4), length: int = 9) -> ModelCfg:
    vision = CLIPVisionCfg(
        layers=1, width=cases_resize.WIDTH, patch_size=8, image_size=(8 * grid[0], 8 * grid[1])
    )
    return ModelCfg(8, vision, CLIPTextCfg(context_length=length, width=cases_resize.WIDTH))


@pytest.mark.parametrize("name", cases_resize.GRIDS)
def test_visual_positions(published_open_clip: Any, name: str) -> None:
    found = resize_positions(cases_resize.visual_state(name), cfg(grid=cases_resize.GRIDS[name][1]))
    expected = published_open_clip["resize"]["images"][name]
    assert torch.equal(found["visual.positional_embedding"], expected)


@pytest.mark.parametrize("name", cases_resize.LENGTHS)
def test_text_positions(published_open_clip: Any, name: str) -> None:
    found = resize_positions(cases_resize.text_state(name), cfg(length=cases_resize.LENGTHS[name][1]))
    assert torch.equal(found["positional_embedding"], published_open_clip["resize"]["texts"][name])
