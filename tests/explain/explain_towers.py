"""Small encoders of every family of image towers, with random weights."""

from __future__ import annotations

import torch
from tiny import PIXELS, tiny_cfg

import oneclip
from oneclip.config import CLIPVisionCfg, ModelCfg, PreprocessCfg
from oneclip.image import Preprocess
from oneclip.model import build_model
from oneclip.text import CLIPTokenizer


def small_vit(**changes: object) -> ModelCfg:
    """Make a configuration with a vision transformer of 4 x 4 patches."""
    sizes = {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "image_size": PIXELS}
    return tiny_cfg(embed_dim=32, vision_cfg=CLIPVisionCfg(**{**sizes, **changes}))


OWN = {
    "class token": small_vit(),
    "mean": small_vit(pool_type="avg"),
    "norm after the mean": small_vit(pool_type="avg", final_ln_after_pool=True),
    "CoCa": small_vit(attentional_pool=True),
    "SigLIP": small_vit(pool_type="map"),
    "query and key norms": small_vit(block_type="custom", qk_norm=True, scale_heads=True, scale_attn=True),
    "cosine attention": small_vit(scaled_cosine_attn=True, scale_attn_inner=True),
    "layer scale": small_vit(ls_init_value=0.1),
    "ResNet": small_vit(layers=(1, 1, 1, 1), width=16, head_width=64),
}


def encoder_of(cfg: ModelCfg) -> oneclip.Encoder:
    """Build an encoder with random weights."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer(context_length=cfg.text_cfg.context_length)
    preprocess = Preprocess(PreprocessCfg(size=PIXELS))
    return oneclip.Encoder(build_model(cfg), preprocess, tokenizer, cfg, name="small")
