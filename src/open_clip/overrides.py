"""Arguments of `create_model` that change the configuration of an architecture.

They exist for programs written for open_clip_torch; `oneclip` itself uses configurations unchanged.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from oneclip.config import ModelCfg

Override = Callable[[dict[str, Any], Any], None]


def _quick_gelu(cfg: dict[str, Any], enabled: bool) -> None:
    if enabled:
        cfg["quick_gelu"] = True


def _custom_text(cfg: dict[str, Any], enabled: bool) -> None:
    if enabled:
        cfg["custom_text"] = True


def _patch_dropout(cfg: dict[str, Any], fraction: float | None) -> None:
    if fraction is not None:
        cfg["vision_cfg"]["patch_dropout"] = fraction


def _image_size(cfg: dict[str, Any], size: int | tuple[int, int] | None) -> None:
    if size is not None:
        cfg["vision_cfg"]["image_size"] = size


def _context_length(cfg: dict[str, Any], length: int | None) -> None:
    if length is not None:
        cfg["text_cfg"]["context_length"] = length


OVERRIDES: Mapping[str, Override] = {
    "force_quick_gelu": _quick_gelu,
    "force_custom_text": _custom_text,
    "force_patch_dropout": _patch_dropout,
    "force_image_size": _image_size,
    "force_context_length": _context_length,
}


def apply_overrides(model_cfg: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Apply arguments of `create_model` to a copy of a configuration.

    Args:
        model_cfg: in the format of `open_clip_config.json`.
        values: arguments by name. Those in `OVERRIDES` are applied by their function; others replace a field of the
            configuration, like the keyword arguments of `create_model`.
    """
    cfg = {key: dict(part) if isinstance(part, Mapping) else part for key, part in model_cfg.items()}
    for name, override in OVERRIDES.items():
        override(cfg, values.get(name))
    cfg.update({name: copy.copy(value) for name, value in values.items() if name not in OVERRIDES})
    return cfg


def set_tower_downloads(cfg: ModelCfg, image: bool, text: bool) -> None:
    """Set, in place, which towers are initialized with the weights of timm and transformers."""
    cfg.vision_cfg.timm_model_pretrained = image and cfg.vision_cfg.timm_model_name is not None
    cfg.text_cfg.hf_model_pretrained = text and cfg.text_cfg.hf_model_name is not None
