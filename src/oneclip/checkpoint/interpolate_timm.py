"""What a timm tower for pictures of another size has otherwise: its grid of patches, and its tables of biases.

Position tables of plain towers follow from the patch size; those of towers that begin with convolutions, and windows
(Swin), only from the tower itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from oneclip.checkpoint.skip_init import build_blank
from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg
from oneclip.model import build_visual_tower
from oneclip.model.optional_package import optional_package

BIASES = ".relative_position_bias_table"  # (biases of a window, heads)


def patch_grid(cfg: CLIPVisionCfg) -> tuple[int, int] | None:
    """Rows and columns of patches of a tower's trunk; None if it has no such grid.

    Args:
        cfg: of the tower, with the image size in question.
    """
    size = getattr(getattr(_trunk(cfg), "patch_embed", None), "grid_size", None)
    return None if size is None else (int(size[0]), int(size[1]))


def resize_biases(state_dict: Mapping[str, Tensor], cfg: CLIPVisionCfg, prefix: str) -> dict[str, Tensor]:
    """The tables of biases in a state dict, for the windows that a tower has; as timm resizes them.

    Args:
        state_dict: of a model whose windows were square.
        cfg: of the tower, with the image size in question.
        prefix: what the trunk's names begin with.

    Returns:
        Those tables, and nothing else.
    """
    tables = {name: tensor for name, tensor in state_dict.items() if name.endswith(BIASES)}
    if not tables:
        return tables
    resize = optional_package("timm.layers", "A timm tower", "timm").resize_rel_pos_bias_table
    modules = dict(_trunk(cfg).named_modules())
    for name, table in tables.items():
        attention = modules.get(name.removeprefix(prefix).removesuffix(BIASES))
        if attention is None or not hasattr(attention, "window_size"):
            continue
        shape = tuple(attention.relative_position_bias_table.shape)
        if tuple(table.shape) != shape:
            tables[name] = resize(table, new_window_size=attention.window_size, new_bias_shape=shape)
    return tables


def _trunk(cfg: CLIPVisionCfg) -> Any:
    """The trunk of a tower, its weights without values; into how wide a space it projects does not matter here."""
    model_cfg = ModelCfg(8, replace(cfg, timm_model_pretrained=False), CLIPTextCfg())
    return build_blank(model_cfg, lambda made: build_visual_tower(made.embed_dim, made.vision_cfg)).trunk
