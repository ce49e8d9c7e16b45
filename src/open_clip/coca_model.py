"""`open_clip.coca_model`: CoCa, its configuration, and helpers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from oneclip import config
from oneclip.config import CLIPTextCfg, CLIPVisionCfg
from oneclip.model import CoCa, LayerNorm, LayerNormFp32, MultimodalTransformer, QuickGELU
from oneclip.model.build import build_decoder
from oneclip.model.generation.settings import GENERATION_TYPES as _TYPES
from open_clip.model import _build_text_tower as _build_text_tower  # programs also import these from here
from open_clip.model import _build_vision_tower as _build_vision_tower

__all__ = [
    "GENERATION_TYPES",
    "CLIPTextCfg",
    "CLIPVisionCfg",
    "CoCa",
    "LayerNorm",
    "LayerNormFp32",
    "MultimodalCfg",
    "MultimodalTransformer",
    "QuickGELU",
    "prepare_inputs_for_generation",
]

GENERATION_TYPES = {kind: kind for kind in _TYPES}
_has_transformers = True  # programs read this; generation does not need transformers


@dataclass
class MultimodalCfg(CLIPTextCfg):
    """Configuration of CoCa's decoder, with the published fields; `oneclip.config.MultimodalCfg` has those in use."""

    mlp_ratio: float = 4
    dim_head: int = 64
    heads: int = 8
    n_queries: int = 256
    attn_pooler_heads: int = 8


def prepare_inputs_for_generation(
    input_ids: Tensor, image_inputs: Tensor, past: Any = None, **kwargs: Any
) -> dict[str, Any]:
    """Make the arguments of one decoding step, with the names of transformers.

    Args:
        input_ids: (B, L).
        image_inputs: (B, 3, H, W).
        past: keys and values of earlier tokens; if given, only the last token is passed on.
        kwargs: `attention_mask` (B, L), from which positions are counted unless `position_ids` are given; those are
            left out, as in the published package.
    """
    attention_mask = kwargs.get("attention_mask")
    position_ids = None
    if attention_mask is not None and kwargs.get("position_ids") is None:
        position_ids = (attention_mask.long().cumsum(-1) - 1).masked_fill(attention_mask == 0, 1)
    return {
        "text": input_ids[:, -1:] if past else input_ids,
        "images": image_inputs,
        "past_key_values": past,
        "position_ids": position_ids,
        "attention_mask": attention_mask,
    }


def _build_text_decoder_tower(
    embed_dim: int,
    multimodal_cfg: MultimodalCfg | config.MultimodalCfg | Mapping[str, Any],
    quick_gelu: bool = False,
    cast_dtype: torch.dtype | None = None,
) -> MultimodalTransformer:
    """Build a decoder with `embed_dim` logits, one for each token of the vocabulary."""
    cfg: Any = multimodal_cfg
    if isinstance(cfg, Mapping):
        cfg = MultimodalCfg(**cfg)
    return build_decoder(cfg, embed_dim, quick_gelu, cast_dtype)


def _token_to_tensor(token_id: int | Sequence[int] | Tensor, device: str | torch.device = "cpu") -> Tensor:
    """Convert ids to a tensor (N,); tensors are returned unchanged."""
    if isinstance(token_id, Tensor):
        return token_id
    return torch.tensor([token_id] if isinstance(token_id, int) else token_id, device=device)
