"""`open_clip.transformer`: the towers of `oneclip.model` and their parts."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from oneclip.errors import ConfigError
from oneclip.model import (
    Attention,
    AttentionalPooler,
    CustomResidualAttentionBlock,
    CustomTransformer,
    LayerNorm,
    LayerNormFp32,
    LayerScale,
    MultimodalTransformer,
    PatchDropout,
    QuickGELU,
    ResidualAttentionBlock,
    TextTransformer,
    Transformer,
    VisionTransformer,
)
from oneclip.model.text_pooling import POOL_TYPES, pool_text
from open_clip.pos_embed import get_2d_sincos_pos_embed
from open_clip.utils import feature_take_indices, to_2tuple

__all__ = [
    "Attention",
    "AttentionalPooler",
    "CustomResidualAttentionBlock",
    "CustomTransformer",
    "LayerNorm",
    "LayerNormFp32",
    "LayerScale",
    "MultimodalTransformer",
    "PatchDropout",
    "QuickGELU",
    "ResidualAttentionBlock",
    "TextTransformer",
    "Transformer",
    "VisionTransformer",
    "feature_take_indices",
    "get_2d_sincos_pos_embed",
    "lock_text_tower",
    "text_global_pool",
    "to_2tuple",
]


def text_global_pool(
    x: Tensor, text: Tensor | None = None, pool_type: str = "argmax", eos_token_id: int | None = None
) -> Tensor:
    """Pool one token of each text: (B, L, C) to (B, C); return all tokens if `pool_type` is "none".

    Raises:
        ConfigError: for an unknown `pool_type`, or if it needs `text` or `eos_token_id` and that is missing.
    """
    if pool_type not in POOL_TYPES:
        raise ConfigError(f"pool_type is {pool_type!r}; expected one of {', '.join(POOL_TYPES)}")
    if pool_type in ("argmax", "eos") and (text is None or (pool_type == "eos" and eos_token_id is None)):
        raise ConfigError(
            f"pool_type {pool_type!r} needs the token ids: give text, and for 'eos' also eos_token_id"
        )
    ids = text if text is not None else x[..., 0]  # not used by the other pool types
    return pool_text(x, ids, pool_type, eos_token_id if eos_token_id is not None else -1)


def lock_text_tower(model: Any, unlocked_layers: int = 0) -> None:
    """Freeze a text tower, or the text tower of a model, except for its last `unlocked_layers` groups of layers."""
    if hasattr(model, "lock_text_tower"):
        model.lock_text_tower(unlocked_layers)
    else:
        model.lock(unlocked_layers)


def _expand_token(token: Tensor, batch_size: int) -> Tensor:
    """Repeat a learned token (C,) for each row: (B, 1, C)."""
    return token.view(1, 1, -1).expand(batch_size, -1, -1)
