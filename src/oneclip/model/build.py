"""Builders of image towers, text towers and decoders from their configurations.

A new tower is a row in `IMAGE_TOWERS` or `TEXT_TOWERS`.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg, MultimodalCfg
from oneclip.errors import ConfigError
from oneclip.model.decoder import MultimodalTransformer
from oneclip.model.layers import LayerNorm, LayerNormFp32, QuickGELU
from oneclip.model.protocols import ImageTower, TextTower
from oneclip.model.resnet import ModifiedResNet
from oneclip.model.siglip import SigLIPVision
from oneclip.model.siglip_names import TrunkCfg, is_siglip
from oneclip.model.text import TextTransformer
from oneclip.model.vision import VisionTransformer


class LayerCfg(NamedTuple):
    """Options of a tower's activations and norms.

    Attributes:
        quick_gelu: use the activation of OpenAI's weights.
        cast_dtype: the dtype that linear weights will have; if it has 16 bits, norms compute in fp32.
    """

    quick_gelu: bool = False
    cast_dtype: torch.dtype | None = None


class TowerBuilder(NamedTuple):
    """One kind of tower.

    Attributes:
        fits: takes a tower's configuration, and returns True if it describes this kind.
        build: takes D, the configuration and a `LayerCfg`, and returns the tower.
    """

    fits: Callable[[Any], bool]
    build: Callable[[int, Any, LayerCfg], ImageTower | TextTower]


def build_visual_tower(
    embed_dim: int, cfg: CLIPVisionCfg, quick_gelu: bool = False, cast_dtype: torch.dtype | None = None
) -> nn.Module:
    """Build an image tower with random weights, of the first kind in `IMAGE_TOWERS` that fits.

    Args:
        embed_dim: D.
        cfg: its configuration.
        quick_gelu, cast_dtype: see `LayerCfg`.

    Returns:
        A module with the members of `protocols.ImageTower`.

    Raises:
        ConfigError: if the configuration contradicts itself.
        MissingExtraError: if the tower needs timm, which is not installed.
    """
    return _build(IMAGE_TOWERS, embed_dim, cfg, LayerCfg(quick_gelu, cast_dtype))


def build_text_tower(
    embed_dim: int, cfg: CLIPTextCfg, quick_gelu: bool = False, cast_dtype: torch.dtype | None = None
) -> nn.Module:
    """Build a text tower with random weights, of the first kind in `TEXT_TOWERS` that fits.

    Arguments and errors are those of `build_visual_tower`; the module has the members of `protocols.TextTower`.
    """
    return _build(TEXT_TOWERS, embed_dim, cfg, LayerCfg(quick_gelu, cast_dtype))


def build_decoder(
    cfg: MultimodalCfg, vocab_size: int, quick_gelu: bool = False, cast_dtype: torch.dtype | None = None
) -> MultimodalTransformer:
    """Build CoCa's decoder, with one logit for each of `vocab_size` token ids."""
    return MultimodalTransformer(
        output_dim=vocab_size,
        **_arguments(MultimodalTransformer, cfg),
        **_layers(CLIPTextCfg(), LayerCfg(quick_gelu, cast_dtype)),
    )


def tanh_gelu_towers(cfg: ModelCfg) -> list[str]:
    """List the towers, "image" and "text", that use the tanh approximation of GELU; other libraries' are left out."""
    vision, text, tanh = cfg.vision_cfg, cfg.text_cfg, {"approximate": "tanh"}
    trunk = TrunkCfg.of_cfg(vision) if is_siglip(vision) else None
    kinds = {
        "image": trunk.gelu == "tanh" if trunk else vision.act_kwargs == tanh and not vision.timm_model_name,
        "text": text.act_kwargs == tanh and not text.hf_model_name,
    }
    return [tower for tower, is_tanh in kinds.items() if is_tanh and (trunk or not cfg.quick_gelu)]


def _build(builders: list[TowerBuilder], embed_dim: int, cfg: Any, layers: LayerCfg) -> nn.Module:
    builder = next(each for each in builders if each.fits(cfg))
    return cast(nn.Module, builder.build(embed_dim, cfg, layers))


def _siglip(embed_dim: int, cfg: CLIPVisionCfg, layers: LayerCfg) -> ImageTower:
    if layers.quick_gelu and not cfg.timm_model_name:  # a name of timm's determines the GELU
        raise ConfigError("quick_gelu is set, but SigLIP's image tower has a GELU: see act_kwargs")
    return SigLIPVision(cfg, embed_dim)


def _timm(embed_dim: int, cfg: CLIPVisionCfg, layers: LayerCfg) -> ImageTower:
    from oneclip.model.timm_tower import TimmTower

    return TimmTower(cfg, embed_dim)


def _resnet(embed_dim: int, cfg: CLIPVisionCfg, layers: LayerCfg) -> ImageTower:
    assert not isinstance(cfg.layers, int)
    return ModifiedResNet(cfg.layers, embed_dim, cfg.width * 32 // cfg.head_width, cfg.image_size, cfg.width)


def _vision_transformer(embed_dim: int, cfg: CLIPVisionCfg, layers: LayerCfg) -> ImageTower:
    if cfg.patch_size is None:
        raise ConfigError("patch_size is None, which only a ResNet may have")
    return VisionTransformer(
        heads=cfg.width // cfg.head_width,
        output_dim=embed_dim,
        **_arguments(VisionTransformer, cfg),
        **_layers(cfg, layers),
    )


def _hugging_face(embed_dim: int, cfg: CLIPTextCfg, layers: LayerCfg) -> TextTower:
    from oneclip.model.hf_tower import HFTextTower

    return HFTextTower(cfg, embed_dim)


def _text_transformer(embed_dim: int, cfg: CLIPTextCfg, layers: LayerCfg) -> TextTower:
    return TextTransformer(output_dim=embed_dim, **_arguments(TextTransformer, cfg), **_layers(cfg, layers))


IMAGE_TOWERS = [
    TowerBuilder(is_siglip, _siglip),
    TowerBuilder(lambda cfg: bool(cfg.timm_model_name), _timm),
    TowerBuilder(lambda cfg: not isinstance(cfg.layers, int), _resnet),
    TowerBuilder(lambda cfg: True, _vision_transformer),
]
"""The kinds of image towers; the first that fits a configuration is built."""

TEXT_TOWERS = [
    TowerBuilder(lambda cfg: bool(cfg.hf_model_name), _hugging_face),
    TowerBuilder(lambda cfg: True, _text_transformer),
]
"""The kinds of text towers, in the same form."""


def _arguments(kind: type[nn.Module], cfg: CLIPVisionCfg | CLIPTextCfg | MultimodalCfg) -> dict[str, Any]:
    """Collect the fields of a configuration that a tower has an argument for, under the same name."""
    return {name: getattr(cfg, name) for name in inspect.signature(kind).parameters if hasattr(cfg, name)}


def _layers(cfg: CLIPVisionCfg | CLIPTextCfg, layers: LayerCfg) -> dict[str, Any]:
    """Choose the classes of a tower's activations and norms."""
    if layers.quick_gelu and cfg.act_kwargs:
        raise ConfigError(f"QuickGELU takes no arguments, but act_kwargs is {cfg.act_kwargs}")
    norm = LayerNormFp32 if layers.cast_dtype in (torch.float16, torch.bfloat16) else LayerNorm
    return {
        "act_layer": QuickGELU if layers.quick_gelu else partial(nn.GELU, **(cfg.act_kwargs or {})),
        "norm_layer": partial(norm, **cfg.norm_kwargs) if cfg.norm_kwargs else norm,
    }
