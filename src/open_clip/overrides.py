"""Arguments of `create_model` that change an architecture, each as an edit of its configuration.

They exist for programs written for open_clip_torch; `oneclip` itself takes a configuration as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from oneclip.config import ModelCfg

Edit = Callable[[dict[str, Any], Any], None]


def _quick_gelu(cfg: dict[str, Any], wanted: bool) -> None:
    if wanted:
        cfg["quick_gelu"] = True


def _custom_text(cfg: dict[str, Any], wanted: bool) -> None:
    if wanted:
        cfg["custom_text"] = True


def _patch_dropout(cfg: dict[str, Any], share: float | None) -> None:
    if share is not None:
        cfg["vision_cfg"]["patch_dropout"] = share


def _image_size(cfg: dict[str, Any], size: int | tuple[int, int] | None) -> None:
    if size is not None:
        cfg["vision_cfg"]["image_size"] = size


def _context_length(cfg: dict[str, Any], length: int | None) -> None:
    if length is not None:
        cfg["text_cfg"]["context_length"] = length


EDITS: Mapping[str, Edit] = {
    "force_quick_gelu": _quick_gelu,
    "force_custom_text": _custom_text,
    "force_patch_dropout": _patch_dropout,
    "force_image_size": _image_size,
    "force_context_length": _context_length,
}


def edited(model_cfg: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with arguments of `create_model` applied; a dict of one's own.

    Args:
        model_cfg: as `open_clip_config.json` files hold it.
        values: by the names of `EDITS`; what is not one of them replaces a field of the configuration, as the rest of
            `create_model`'s keyword arguments does.
    """
    cfg = {key: dict(part) if isinstance(part, Mapping) else part for key, part in model_cfg.items()}
    for name, edit in EDITS.items():
        edit(cfg, values.get(name))
    cfg.update({name: copy.copy(value) for name, value in values.items() if name not in EDITS})
    return cfg


def fetch_towers(cfg: ModelCfg, image: bool, text: bool) -> None:
    """Say, in place, which towers begin with the weights that timm and transformers publish for them."""
    cfg.vision_cfg.timm_model_pretrained = image and cfg.vision_cfg.timm_model_name is not None
    cfg.text_cfg.hf_model_pretrained = text and cfg.text_cfg.hf_model_name is not None
