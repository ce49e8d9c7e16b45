"""Configurations to towers and models: the wiring, in one place."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import nn

from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg
from oneclip.errors import ConfigError
from oneclip.model.resnet import ModifiedResNet
from oneclip.model.siglip import SigLIPVision
from oneclip.model.siglip_names import is_siglip
from oneclip.model.text import TextTransformer
from oneclip.model.vision import VisionTransformer

if TYPE_CHECKING:
    from oneclip.model.clip import CLIP, CustomTextCLIP
    from oneclip.model.hf_tower import HFTextTower


def build_model(
    cfg: ModelCfg, output_dict: bool = False, pretrained_towers: bool = False
) -> "CLIP | CustomTextCLIP":
    """The model of an architecture, with random weights: a CoCa where it has a decoder.

    Args:
        cfg: its configuration.
        output_dict: whether the model's `forward` gives a dict; CoCa's always does.
        pretrained_towers: let towers of timm and of Hugging Face begin with their own published weights, which are
            fetched, where the configuration asks for it (`timm_model_pretrained`, `hf_model_pretrained`).

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
    }
    if cfg.multimodal_cfg is not None:
        return CoCa(cfg.embed_dim, cfg.multimodal_cfg, cfg.text_cfg, cfg.vision_cfg, **options)
    kind = CustomTextCLIP if cfg.custom_text or cfg.text_cfg.hf_model_name else CLIP
    return kind(cfg.embed_dim, cfg.vision_cfg, cfg.text_cfg, output_dict=output_dict, **options)


def build_visual_tower(embed_dim: int, cfg: CLIPVisionCfg, quick_gelu: bool = False) -> nn.Module:
    """A VisionTransformer, a ModifiedResNet when `cfg.layers` holds four numbers, or what timm's name stands for."""
    if is_siglip(cfg):
        if quick_gelu and not cfg.timm_model_name:  # of timm's names the GELU is known
            raise ConfigError("quick_gelu is set, but SigLIP's image tower has a GELU: see act_kwargs")
        return SigLIPVision(cfg, embed_dim)
    if cfg.timm_model_name:
        from oneclip.model.timm_tower import TimmTower

        return TimmTower(cfg, embed_dim)
    if isinstance(cfg.layers, int):
        return VisionTransformer(cfg, embed_dim, quick_gelu)
    heads = cfg.width * 32 // cfg.head_width
    return ModifiedResNet(cfg.layers, embed_dim, heads, cfg.image_size, cfg.width)


def build_text_tower(
    embed_dim: int, cfg: CLIPTextCfg, quick_gelu: bool = False
) -> "TextTransformer | HFTextTower":
    """A TextTransformer, or the encoder that a Hugging Face name stands for."""
    if cfg.hf_model_name:
        from oneclip.model.hf_tower import HFTextTower

        return HFTextTower(cfg, embed_dim)
    return TextTransformer(cfg, embed_dim, quick_gelu)


def check_text_is_native(cfg: CLIPTextCfg) -> None:
    """Raise ConfigError if the text tower is one of transformers'."""
    if cfg.hf_model_name:
        raise ConfigError(
            f"the text tower {cfg.hf_model_name!r} is Hugging Face's, a module of its own: build a CustomTextCLIP"
        )
