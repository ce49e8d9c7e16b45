"""Build a model from its configuration: CLIP, CLIP with a separate text tower, or CoCa."""

from dataclasses import replace
from typing import Any

import torch

from oneclip.config import ModelCfg
from oneclip.model.clip import CLIP, CustomTextCLIP
from oneclip.model.coca import CoCa


def build_model(
    cfg: ModelCfg,
    output_dict: bool = False,
    pretrained_towers: bool = False,
    cast_dtype: torch.dtype | None = None,
) -> CLIP | CustomTextCLIP:
    """Build the model of a configuration, with random weights; it is a CoCa if there is a decoder.

    Args:
        cfg: its configuration.
        output_dict: return a dict from the model's `forward`; CoCa always does.
        pretrained_towers: let towers of timm and of Hugging Face start from their own published weights, which are
            downloaded, if the configuration says so (`timm_model_pretrained`, `hf_model_pretrained`).
        cast_dtype: the dtype that linear weights will have; if it has 16 bits, norms compute in fp32.

    Raises:
        ConfigError: if a tower is of an unknown kind, or its numbers contradict each other.
        MissingExtraError: if a tower needs timm or transformers, which is not installed.
    """
    if not pretrained_towers:
        vision_cfg = replace(cfg.vision_cfg, timm_model_pretrained=False)
        cfg = replace(cfg, vision_cfg=vision_cfg, text_cfg=replace(cfg.text_cfg, hf_model_pretrained=False))
    options: dict[str, Any] = {
        "quick_gelu": cfg.quick_gelu,
        "init_logit_scale": cfg.init_logit_scale,
        "init_logit_bias": cfg.init_logit_bias,
        "nonscalar_logit_scale": cfg.nonscalar_logit_scale,
        "cast_dtype": cast_dtype,
    }
    if cfg.multimodal_cfg is not None:
        return CoCa(cfg.embed_dim, cfg.multimodal_cfg, cfg.text_cfg, cfg.vision_cfg, **options)
    kind = CustomTextCLIP if cfg.custom_text or cfg.text_cfg.hf_model_name else CLIP
    return kind(cfg.embed_dim, cfg.vision_cfg, cfg.text_cfg, output_dict=output_dict, **options)
