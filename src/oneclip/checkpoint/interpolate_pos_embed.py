"""Positions of a state dict to those of another image size or context length.

Pictures: bicubic with antialiasing, the positions of prefix tokens (class, registers) kept. Captions: linear. Both as
open_clip does when it loads a checkpoint, and as timm does for its own towers.

Shapes: P positions, T prefix tokens, C width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from oneclip.config import CLIPVisionCfg, ModelCfg
from oneclip.errors import CheckpointError, ConfigError

VISUAL = "visual.positional_embedding"  # (1 + P, C)
TRUNK = "visual.trunk.pos_embed"  # (1, T + P, C)
CONVOLUTIONS = "visual.trunk.patch_embed.backbone."  # before the patches, in ViTamin and MobileCLIP-B
BIASES = ".relative_position_bias_table"  # of a window, in Swin
TEXT = ("positional_embedding", "text.positional_embedding")  # (P, C)


def position_names() -> dict[str, str]:
    """The tensors that can be resized, each with the argument of `load` that asks for it."""
    return {VISUAL: "image_size=", TRUNK: "image_size="} | dict.fromkeys(TEXT, "context_length=")


def resize_positions(state_dict: Mapping[str, Tensor], cfg: ModelCfg) -> dict[str, Tensor]:
    """The same tensors, positions resized to what a configuration has.

    Those of ResNets, of convolutional towers and of Hugging Face text towers stay as they are; those of Swin's windows
    are resized by timm.

    Args:
        state_dict: tensors by the names of the model.
        cfg: the configuration of the model that they are for.

    Raises:
        CheckpointError: if positions are of no square grid, from which alone they can be resized.
        ConfigError: if the pictures are smaller than a patch.
        MissingExtraError: if only timm knows the grid, and is not installed.
    """
    resized = dict(state_dict)
    if VISUAL in resized and isinstance(cfg.vision_cfg.layers, int):
        resized[VISUAL] = resize_grid(resized[VISUAL], _grid(cfg.vision_cfg), 1, VISUAL)
    if TRUNK in resized and resized[TRUNK].ndim == 3:
        positions = resized[TRUNK]
        if (grid := _trunk_grid(resized, cfg.vision_cfg)) is not None:
            prefix = _prefix_tokens(resized, positions.shape[1])
            resized[TRUNK] = resize_grid(positions[0], grid, prefix, TRUNK)[None]
    if any(name.endswith(BIASES) for name in resized) and cfg.vision_cfg.timm_model_name:
        from oneclip.checkpoint.interpolate_timm import resize_biases

        resized |= resize_biases(resized, cfg.vision_cfg, prefix="visual.trunk.")
    for name in TEXT:
        if name in resized and not cfg.text_cfg.hf_model_name:
            resized[name] = resize_line(resized[name], cfg.text_cfg.context_length + cfg.text_cfg.embed_cls)
    return resized


def resize_grid(
    positions: Tensor,
    grid: tuple[int, int],
    prefix: int = 1,
    name: str = VISUAL,
    *,
    mode: str = "bicubic",
    antialias: bool = True,
) -> Tensor:
    """(T + P, C) positions of a square grid to those of another grid, (T + rows * columns, C).

    Args:
        positions: in any floating-point type, which the result has, too.
        grid: rows and columns.
        prefix: T, positions of tokens that come before the patches; they stay.
        name: of the tensor, for messages.
        mode, antialias: as for `torch.nn.functional.interpolate`.

    Raises:
        CheckpointError: if they are of no square grid.
        ConfigError: if the other grid has no patch.
    """
    if min(grid) < 1:
        raise ConfigError(
            f"{name} would have {grid[0]} x {grid[1]} patches: an image_size of a patch or more is needed"
        )
    if len(positions) == prefix + grid[0] * grid[1]:
        return positions
    side = math.isqrt(max(len(positions) - prefix, 0))
    if positions.ndim != 2 or side < 1 or side**2 != len(positions) - prefix:
        raise CheckpointError(
            f"{name} has {len(positions)} positions, which are no square grid and {prefix} more: it cannot be resized"
        )
    patches = positions[prefix:].reshape(1, side, side, -1).permute(0, 3, 1, 2)  # (1, C, side, side)
    patches = F.interpolate(
        _computable(patches), size=grid, mode=mode, antialias=antialias, align_corners=False
    ).to(positions.dtype)
    patches = patches.permute(0, 2, 3, 1).reshape(grid[0] * grid[1], -1)
    return torch.cat([positions[:prefix], patches])


def resize_line(positions: Tensor, length: int, *, mode: str = "linear") -> Tensor:
    """(P, C) positions of captions to (length, C), in the type that they have."""
    if positions.ndim != 2 or len(positions) in (0, length):
        return positions
    line = _computable(positions.T[None])  # (1, C, P)
    return F.interpolate(line, size=length, mode=mode, align_corners=False)[0].T.to(positions.dtype)


def _computable(tensor: Tensor) -> Tensor:
    """16-bit numbers in 32 bits: not every device interpolates them."""
    return tensor.float() if tensor.element_size() < 4 else tensor


def _grid(cfg: CLIPVisionCfg) -> tuple[int, int]:
    """Rows and columns of patches."""
    height, width = _pair(cfg.image_size)
    patch = _pair(cfg.patch_size or 1)
    return height // patch[0], width // patch[1]


def _trunk_grid(state_dict: Mapping[str, Tensor], cfg: CLIPVisionCfg) -> tuple[int, int] | None:
    """Rows and columns of the patches of timm's tower; None if it has no grid of them."""
    stem = state_dict.get("visual.trunk.patch_embed.proj.weight")
    if stem is None or stem.ndim != 4 or any(name.startswith(CONVOLUTIONS) for name in state_dict):
        if not cfg.timm_model_name:
            return None
        from oneclip.checkpoint.interpolate_timm import (
            patch_grid,  # timm knows by how much convolutions shrink
        )

        return patch_grid(cfg)
    height, width = _pair(cfg.image_size)
    return height // stem.shape[2], width // stem.shape[3]


def _prefix_tokens(state_dict: Mapping[str, Tensor], positions: int) -> int:
    """How many tokens before the patches have positions: all or none of them."""
    tokens = [state_dict.get(f"visual.trunk.{name}") for name in ("cls_token", "reg_token")]
    count = sum(token.shape[1] for token in tokens if token is not None and token.ndim == 3)
    return 0 if math.isqrt(positions) ** 2 == positions else count


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
