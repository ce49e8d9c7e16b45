"""Configurations to towers and models: the wiring, in one place."""

import inspect
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg, MultimodalCfg
from oneclip.errors import ConfigError
from oneclip.model.decoder import MultimodalTransformer
from oneclip.model.layers import LayerNorm, LayerNormFp32, QuickGELU
from oneclip.model.resnet import ModifiedResNet
from oneclip.model.siglip import SigLIPVision
from oneclip.model.siglip_names import is_siglip
from oneclip.model.text import TextTransformer
from oneclip.model.vision import VisionTransformer

if TYPE_CHECKING:
    from oneclip.model.clip import CLIP, CustomTextCLIP
    from oneclip.model.hf_tower import HFTextTower


def build_model(
    cfg: ModelCfg,
    output_dict: bool = False,
    pretrained_towers: bool = False,
    cast_dtype: torch.dtype | None = None,
) -> "CLIP | CustomTextCLIP":
    """The model of an architecture, with random weights: a CoCa where it has a decoder.

    Args:
        cfg: its configuration.
        output_dict: whether the model's `forward` gives a dict; CoCa's always does.
        pretrained_towers: let towers of timm and of Hugging Face begin with their own published weights, which are
            fetched, where the configuration asks for it (`timm_model_pretrained`, `hf_model_pretrained`).
        cast_dtype: of the linear weights later on; norms of our own towers compute in fp32 if it is a 16-bit one.

    Raises:
        ConfigError: if a tower is of a kind that is not built here, or its numbers contradict each other.
        MissingExtraError: if a tower needs timm or transformers, which is not installed.
    """
    from oneclip.model.clip import CLIP, CustomTextCLIP
    from oneclip.model.coca import CoCa

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


def build_visual_tower(
    embed_dim: int, cfg: CLIPVisionCfg, quick_gelu: bool = False, cast_dtype: torch.dtype | None = None
) -> nn.Module:
    """A VisionTransformer, a ModifiedResNet when `cfg.layers` holds four numbers, or what timm's name stands for.

    `cast_dtype` is that of the linear weights later on; norms compute in fp32 if it is a 16-bit one.
    """
    if is_siglip(cfg):
        if quick_gelu and not cfg.timm_model_name:  # of timm's names the GELU is known
            raise ConfigError("quick_gelu is set, but SigLIP's image tower has a GELU: see act_kwargs")
        return SigLIPVision(cfg, embed_dim)
    if cfg.timm_model_name:
        from oneclip.model.timm_tower import TimmTower

        return TimmTower(cfg, embed_dim)
    if not isinstance(cfg.layers, int):
        heads = cfg.width * 32 // cfg.head_width
        return ModifiedResNet(cfg.layers, embed_dim, heads, cfg.image_size, cfg.width)
    if cfg.patch_size is None:
        raise ConfigError("patch_size is None, which only a ResNet may have")
    return VisionTransformer(
        heads=cfg.width // cfg.head_width,
        output_dim=embed_dim,
        **_arguments(VisionTransformer, cfg),
        **_layers(cfg, quick_gelu, cast_dtype),
    )


def build_text_tower(
    embed_dim: int, cfg: CLIPTextCfg, quick_gelu: bool = False, cast_dtype: torch.dtype | None = None
) -> "TextTransformer | HFTextTower":
    """A TextTransformer, or the encoder that a Hugging Face name stands for; `cast_dtype` as above."""
    if cfg.hf_model_name:
        from oneclip.model.hf_tower import HFTextTower

        return HFTextTower(cfg, embed_dim)
    return TextTransformer(
        output_dim=embed_dim, **_arguments(TextTransformer, cfg), **_layers(cfg, quick_gelu, cast_dtype)
    )


def build_decoder(
    cfg: MultimodalCfg, vocab_size: int, quick_gelu: bool = False, cast_dtype: torch.dtype | None = None
) -> MultimodalTransformer:
    """CoCa's decoder, with as many logits as there are token ids; `cast_dtype` as above."""
    return MultimodalTransformer(
        output_dim=vocab_size,
        **_arguments(MultimodalTransformer, cfg),
        **_layers(CLIPTextCfg(), quick_gelu, cast_dtype),
    )


def _arguments(kind: type[nn.Module], cfg: CLIPVisionCfg | CLIPTextCfg | MultimodalCfg) -> dict[str, Any]:
    """The fields of a configuration that a tower has an argument for, under the same name."""
    return {name: getattr(cfg, name) for name in inspect.signature(kind).parameters if hasattr(cfg, name)}


def _layers(
    cfg: CLIPVisionCfg | CLIPTextCfg, quick_gelu: bool, cast_dtype: torch.dtype | None
) -> dict[str, Any]:
    """What makes a tower's activations and norms."""
    if quick_gelu and cfg.act_kwargs:
        raise ConfigError(f"QuickGELU takes no arguments, but act_kwargs is {cfg.act_kwargs}")
    norm = LayerNormFp32 if cast_dtype in (torch.float16, torch.bfloat16) else LayerNorm
    return {
        "act_layer": QuickGELU if quick_gelu else partial(nn.GELU, **(cfg.act_kwargs or {})),
        "norm_layer": partial(norm, **cfg.norm_kwargs) if cfg.norm_kwargs else norm,
    }


def check_text_is_native(cfg: CLIPTextCfg) -> None:
    """Raise ConfigError if the text tower is one of transformers'."""
    if cfg.hf_model_name:
        raise ConfigError(
            f"the text tower {cfg.hf_model_name!r} is Hugging Face's, a module of its own: build a CustomTextCLIP"
        )
