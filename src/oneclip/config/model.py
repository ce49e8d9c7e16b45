"""Configurations of models and of inference preprocessing.

The field names and defaults of `CLIPVisionCfg` and `CLIPTextCfg` are those that published `open_clip_config.json`
files use.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from oneclip.config.base import BaseCfg

# per channel, in [0, 1], of CLIP's training images
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
INIT_LOGIT_SCALE = math.log(1 / 0.07)  # Radford et al. 2021, section 2.5


def as_pair(size: int | Sequence[int]) -> tuple[int, int]:
    """Return a size as (height, width); one number means both."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


@dataclass
class CLIPVisionCfg(BaseCfg):
    """Image tower: a VisionTransformer, or a ModifiedResNet if `layers` holds four numbers."""

    layers: tuple[int, int, int, int] | int = 12
    width: int = 768
    head_width: int = 64
    mlp_ratio: float = 4.0
    patch_size: int | tuple[int, int] | None = 16  # None or ignored in a ResNet
    image_size: tuple[int, int] | int = 224  # pixels; (height, width) when not square

    ls_init_value: float | None = None  # layer scale
    patch_dropout: float = 0.0  # share of patches dropped in training (Li et al. 2022, FLIP)
    attentional_pool: bool | str = False  # True, "parallel" or "cascade" (the last two as in CoCa)
    attn_pooler_queries: int = 256
    attn_pooler_heads: int = 8
    no_ln_pre: bool = False
    pos_embed_type: str = "learnable"  # or "sin_cos_2d"
    final_ln_after_pool: bool = False
    pool_type: str = "tok"  # "tok", "avg" or "none"; "map" for SigLIP's tower
    output_tokens: bool = False
    act_kwargs: dict[str, Any] | None = None
    norm_kwargs: dict[str, Any] | None = None

    # the custom block (`block_type="custom"`, or any of the switches below)
    block_type: str | None = None
    qk_norm: bool = False
    scaled_cosine_attn: bool = False
    scale_heads: bool = False
    scale_attn_inner: bool = False
    scale_attn: bool = False
    scale_fc: bool = False

    # a timm tower; of the fields above only image_size is then used
    timm_model_name: str | None = None
    timm_model_pretrained: bool = False
    timm_pool: str = "avg"
    timm_proj: str | None = "linear"
    timm_proj_bias: bool = False
    timm_drop: float = 0.0
    timm_drop_path: float | None = None


@dataclass
class CLIPTextCfg(BaseCfg):
    """Text tower: a TextTransformer, or a Hugging Face model if `hf_model_name` is set."""

    context_length: int = 77
    vocab_size: int = 49408
    hf_tokenizer_name: str | None = None
    tokenizer_mode: str | None = None
    tokenizer_kwargs: dict[str, Any] | None = None

    width: int = 512
    heads: int = 8
    layers: int = 12
    mlp_ratio: float = 4.0
    ls_init_value: float | None = None
    embed_cls: bool = False  # a learned class token behind the last position, pooled (CoCa)
    pad_id: int = 0
    eos_id: int = 2  # pooled when pool_type is "eos"
    no_causal_mask: bool = False
    final_ln_after_pool: bool = False
    pool_type: str = "argmax"  # "argmax", "eos", "first", "last" or "none"
    proj_bias: bool = False
    proj_type: str = "linear"  # or "none"
    output_tokens: bool = False
    act_kwargs: dict[str, Any] | None = None
    norm_kwargs: dict[str, Any] | None = None

    # the custom block, as in CLIPVisionCfg
    block_type: str | None = None
    qk_norm: bool = False
    scaled_cosine_attn: bool = False
    scale_heads: bool = False
    scale_attn_inner: bool = False
    scale_attn: bool = False
    scale_fc: bool = False

    # a tower of Hugging Face transformers
    hf_model_name: str | None = None
    hf_model_pretrained: bool = True
    hf_proj_type: str | None = "mlp"
    hf_pooler_type: str | None = "mean_pooler"


@dataclass
class MultimodalCfg(BaseCfg):
    """CoCa's captioning decoder (Yu et al. 2022)."""

    context_length: int = 77
    vocab_size: int = 49408
    width: int = 512
    heads: int = 8
    layers: int = 12
    mlp_ratio: float = 4.0
    ls_init_value: float | None = None
    dim_head: int = 64
    n_queries: int = 256
    attn_pooler_heads: int = 8


@dataclass
class PreprocessCfg(BaseCfg):
    """Inference preprocessing of an image."""

    size: int | tuple[int, int] = 224  # pixels; (height, width) when not square
    mode: str = "RGB"
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD
    interpolation: str = "bicubic"  # or "bilinear"
    resize_mode: str = "shortest"  # "shortest" (then centre crop), "longest" (then pad) or "squash"
    fill_color: int | tuple[int, int, int] = 0  # of the padding
    # colour behind transparent pixels, blended in before the resize; None resizes first and then drops alpha, as in
    # the published packages
    background: tuple[int, int, int] | None = field(default=None, kw_only=True)


@dataclass
class ModelCfg(BaseCfg):
    """Architecture of a model: two towers and the width of their joint embedding."""

    embed_dim: int
    vision_cfg: CLIPVisionCfg
    text_cfg: CLIPTextCfg
    quick_gelu: bool = False
    custom_text: bool = False  # the text tower is a submodule, `text.` in the state dict
    init_logit_scale: float = INIT_LOGIT_SCALE
    init_logit_bias: float | None = None
    nonscalar_logit_scale: bool = False
    multimodal_cfg: MultimodalCfg | None = field(default=None)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelCfg:
        """Make a configuration from nested mappings, such as the `model_cfg` of an `open_clip_config.json`."""
        nested = dict(values)
        for key, kind in (
            ("vision_cfg", CLIPVisionCfg),
            ("text_cfg", CLIPTextCfg),
            ("multimodal_cfg", MultimodalCfg),
        ):
            if isinstance(nested.get(key), Mapping):
                nested[key] = kind.from_dict(nested[key])
        return super().from_dict(nested)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults, with towers as nested dicts."""
        values = super().to_dict()
        for key in ("vision_cfg", "text_cfg", "multimodal_cfg"):
            part = getattr(self, key)
            if part is not None:
                values[key] = part.to_dict()
        return values
