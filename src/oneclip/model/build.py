"""Configurations to towers and models: the wiring, in one place."""

from typing import TYPE_CHECKING

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


def build_model(cfg: ModelCfg, output_dict: bool = False) -> "CLIP | CustomTextCLIP":
    """The model of an architecture, with random weights.

    Args:
        cfg: its configuration.
        output_dict: whether the model's `forward` gives a dict.

    Raises:
        ConfigError: if a tower is of a kind that is not built here, or its numbers contradict each other.
    """
    from oneclip.model.clip import CLIP, CustomTextCLIP

    if cfg.multimodal_cfg is not None:
        raise ConfigError("a captioning model (CoCa) cannot be built by this version of oneclip")
    kind = CustomTextCLIP if cfg.custom_text else CLIP
    return kind(
        cfg.embed_dim,
        cfg.vision_cfg,
        cfg.text_cfg,
        quick_gelu=cfg.quick_gelu,
        init_logit_scale=cfg.init_logit_scale,
        init_logit_bias=cfg.init_logit_bias,
        nonscalar_logit_scale=cfg.nonscalar_logit_scale,
        output_dict=output_dict,
    )


def build_visual_tower(embed_dim: int, cfg: CLIPVisionCfg, quick_gelu: bool = False) -> nn.Module:
    """A VisionTransformer, a ModifiedResNet when `cfg.layers` holds four numbers, or what timm's name stands for."""
    if is_siglip(cfg):
        return SigLIPVision(cfg, embed_dim)
    if cfg.timm_model_name:
        raise ConfigError(
            f"the visual tower {cfg.timm_model_name!r} is timm's; this version of oneclip builds its own only"
        )
    if isinstance(cfg.layers, int):
        return VisionTransformer(cfg, embed_dim, quick_gelu)
    heads = cfg.width * 32 // cfg.head_width
    return ModifiedResNet(cfg.layers, embed_dim, heads, cfg.image_size, cfg.width)


def build_text_tower(embed_dim: int, cfg: CLIPTextCfg, quick_gelu: bool = False) -> TextTransformer:
    """A TextTransformer."""
    check_text_is_native(cfg)
    return TextTransformer(cfg, embed_dim, quick_gelu)


def check_text_is_native(cfg: CLIPTextCfg) -> None:
    """Raise ConfigError if the text tower is one of transformers'."""
    if cfg.hf_model_name:
        raise ConfigError(
            f"the text tower {cfg.hf_model_name!r} is Hugging Face's; this version of oneclip builds its own only"
        )
