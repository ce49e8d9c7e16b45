"""Interpolate position embeddings for another image size or context length.

Images: bicubic with antialiasing; the positions of prefix tokens (class, registers) are unchanged. Texts: linear. Both
as open_clip does when it loads a checkpoint, and as timm does for its own towers.

Shapes: P positions, T prefix tokens, C width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from oneclip.checkpoint.skip_init import build_uninitialized
from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg, as_pair
from oneclip.errors import CheckpointError, ConfigError
from oneclip.model import build_visual_tower
from oneclip.model.optional_package import optional_package

VISUAL_POS_EMBED = "visual.positional_embedding"  # (1 + P, C)
TRUNK_PREFIX = "visual.trunk."
TRUNK_POS_EMBED = "visual.trunk.pos_embed"  # (1, T + P, C)
CONV_STEM = "visual.trunk.patch_embed.backbone."  # before the patches, in ViTamin and MobileCLIP-B
BIAS_TABLE = ".relative_position_bias_table"  # (biases of a window, heads), in Swin
TEXT_POS_EMBED = ("positional_embedding", "text.positional_embedding")  # (P, C)


def position_names() -> dict[str, str]:
    """Return the tensors that can be resized, each with the argument of `load` that resizes it."""
    image = {VISUAL_POS_EMBED: "image_size=", TRUNK_POS_EMBED: "image_size="}
    return image | dict.fromkeys(TEXT_POS_EMBED, "context_length=")


def resize_positions(state_dict: Mapping[str, Tensor], cfg: ModelCfg) -> dict[str, Tensor]:
    """Resize the positions in a state dict to those of a configuration.

    Position embeddings of ResNets, of convolutional towers and of Hugging Face text towers are unchanged; those of
    Swin's windows are resized by timm.

    Args:
        state_dict: tensors by the names of the model.
        cfg: configuration of the model that they are for.

    Returns:
        All tensors of `state_dict`.

    Raises:
        CheckpointError: if the positions are not a square grid.
        ConfigError: if the images are smaller than a patch.
        MissingExtraError: if only timm knows the grid, and is not installed.
    """
    resized = dict(state_dict)
    if VISUAL_POS_EMBED in resized and isinstance(cfg.vision_cfg.layers, int):
        height, width = as_pair(cfg.vision_cfg.image_size)
        patch = as_pair(cfg.vision_cfg.patch_size or 1)
        grid = height // patch[0], width // patch[1]
        resized[VISUAL_POS_EMBED] = resize_grid(resized[VISUAL_POS_EMBED], grid, 1, VISUAL_POS_EMBED)
    if TRUNK_POS_EMBED in resized and resized[TRUNK_POS_EMBED].ndim == 3:
        positions = resized[TRUNK_POS_EMBED]
        if (trunk_grid := _trunk_grid(resized, cfg.vision_cfg)) is not None:
            prefix = _prefix_tokens(resized, positions.shape[1])
            resized[TRUNK_POS_EMBED] = resize_grid(positions[0], trunk_grid, prefix, TRUNK_POS_EMBED)[None]
    if any(name.endswith(BIAS_TABLE) for name in resized) and cfg.vision_cfg.timm_model_name:
        resized |= _resize_bias_tables(resized, cfg.vision_cfg)
    for name in TEXT_POS_EMBED:
        if name in resized and not cfg.text_cfg.hf_model_name:
            resized[name] = resize_sequence(
                resized[name], cfg.text_cfg.context_length + cfg.text_cfg.embed_cls
            )
    return resized


def resize_grid(
    positions: Tensor,
    grid: tuple[int, int],
    prefix: int = 1,
    name: str = VISUAL_POS_EMBED,
    *,
    mode: str = "bicubic",
    antialias: bool = True,
) -> Tensor:
    """Resize the positions of a square grid to another grid.

    Args:
        positions: (T + P, C), any floating-point dtype.
        grid: rows and columns.
        prefix: T, positions of tokens before the patches; they are unchanged.
        name: of the tensor, for messages.
        mode, antialias: as for `torch.nn.functional.interpolate`.

    Returns:
        (T + rows * columns, C), in the dtype of `positions`.

    Raises:
        CheckpointError: if `positions` is not a square grid.
        ConfigError: if the other grid has no patch.
    """
    if min(grid) < 1:
        raise ConfigError(
            f"{name} would have {grid[0]} x {grid[1]} patches: image_size must be at least one patch"
        )
    if len(positions) == prefix + grid[0] * grid[1]:
        return positions
    side = math.isqrt(max(len(positions) - prefix, 0))
    if positions.ndim != 2 or side < 1 or side**2 != len(positions) - prefix:
        raise CheckpointError(
            f"{name} has {len(positions)} positions; expected {prefix} and a square number, so that they can be resized"
        )
    patches = positions[prefix:].reshape(1, side, side, -1).permute(0, 3, 1, 2)  # (1, C, side, side)
    patches = F.interpolate(
        _to_float32(patches), size=grid, mode=mode, antialias=antialias, align_corners=False
    ).to(positions.dtype)
    patches = patches.permute(0, 2, 3, 1).reshape(grid[0] * grid[1], -1)
    return torch.cat([positions[:prefix], patches])


def resize_sequence(positions: Tensor, length: int, *, mode: str = "linear") -> Tensor:
    """Resize the positions of texts, (P, C), to (length, C); the dtype is unchanged."""
    if positions.ndim != 2 or len(positions) in (0, length):
        return positions
    line = _to_float32(positions.T[None])  # (1, C, P)
    return F.interpolate(line, size=length, mode=mode, align_corners=False)[0].T.to(positions.dtype)


def _to_float32(tensor: Tensor) -> Tensor:
    """Convert 16-bit numbers to 32 bits: not every device interpolates 16 bits."""
    return tensor.float() if tensor.element_size() < 4 else tensor


def _trunk_grid(state_dict: Mapping[str, Tensor], cfg: CLIPVisionCfg) -> tuple[int, int] | None:
    """Return the rows and columns of patches of a timm tower; None if it has no grid."""
    stem = state_dict.get("visual.trunk.patch_embed.proj.weight")
    if stem is None or stem.ndim != 4 or any(name.startswith(CONV_STEM) for name in state_dict):
        # only the tower itself knows by how much its convolutions reduce the image
        grid: tuple[int, int] | None = _build_tower(cfg).grid_size if cfg.timm_model_name else None
        return grid
    height, width = as_pair(cfg.image_size)
    return height // stem.shape[2], width // stem.shape[3]


def _prefix_tokens(state_dict: Mapping[str, Tensor], positions: int) -> int:
    """Count the tokens before the patches that have positions: all of them, or none."""
    tokens = [state_dict.get(f"{TRUNK_PREFIX}{name}") for name in ("cls_token", "reg_token")]
    count = sum(token.shape[1] for token in tokens if token is not None and token.ndim == 3)
    return 0 if math.isqrt(positions) ** 2 == positions else count


def _resize_bias_tables(state_dict: Mapping[str, Tensor], cfg: CLIPVisionCfg) -> dict[str, Tensor]:
    """Resize the bias tables of square windows to the windows of a tower, as timm does; return only them."""
    tables = {name: tensor for name, tensor in state_dict.items() if name.endswith(BIAS_TABLE)}
    resize = optional_package("timm.layers", "A timm tower", "timm").resize_rel_pos_bias_table
    modules = dict(_build_tower(cfg).trunk.named_modules())
    for name, table in tables.items():
        attention = modules.get(name.removeprefix(TRUNK_PREFIX).removesuffix(BIAS_TABLE))
        if attention is None or not hasattr(attention, "window_size"):
            continue
        shape = tuple(attention.relative_position_bias_table.shape)
        if tuple(table.shape) != shape:
            tables[name] = resize(table, new_window_size=attention.window_size, new_bias_shape=shape)
    return tables


def _build_tower(cfg: CLIPVisionCfg) -> Any:
    """Build an image tower without initializing its weights; its `embed_dim` does not matter here."""
    model_cfg = ModelCfg(8, replace(cfg, timm_model_pretrained=False), CLIPTextCfg())
    return build_uninitialized(model_cfg, lambda cfg: build_visual_tower(cfg.embed_dim, cfg.vision_cfg))
