"""Small towers of every family that is exported, with random weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg
from oneclip.export.towers import ExportedImageTower, ExportedTextTower
from oneclip.model import build_model
from tests import small_towers
from tests.tiny import PIXELS, coca_cfg, tiny_cfg

TEXT = {"vocab_size": small_towers.IDS, "context_length": 12, "width": 32, "heads": 2, "layers": 1}


def _vit(**changes: Any) -> CLIPVisionCfg:
    sizes = {"layers": 1, "width": 32, "head_width": 16, "patch_size": 8, "image_size": PIXELS}
    return CLIPVisionCfg(**{**sizes, **changes})


IMAGE_TOWERS: dict[str, CLIPVisionCfg] = {
    "ViT, class token": _vit(),
    "ViT, mean of patches": _vit(pool_type="avg"),
    "ViT, norm after the mean": _vit(pool_type="avg", final_ln_after_pool=True),
    "ViT, attention pool": _vit(attentional_pool=True),
    "ViT, two attention pools": _vit(attentional_pool="cascade", attn_pooler_heads=2),
    "ViT, fixed positions": _vit(pos_embed_type="sin_cos_2d"),
    "ViT, query and key norms": _vit(block_type="custom", qk_norm=True, scale_heads=True, scale_attn=True),
    "ViT, cosine attention": _vit(scaled_cosine_attn=True, scale_attn_inner=True),
    "ViT, layer scale": _vit(ls_init_value=0.1),
    "ResNet": _vit(layers=(1, 1, 1, 1), width=16, head_width=64),
    "SigLIP": _vit(pool_type="map"),
}
TIMM = {
    "ConvNeXt": "convnext",
    "EVA": "eva01",
    "EVA-02": "eva02",
    "ViTamin": "vitamin",
    "MobileCLIP (FastViT)": "fastvit",
    "MobileCLIP 2 (FastViT, five stages)": "fastvit_five",
    "MobileCLIP-B": "mobileclip_b",
    "PE": "pe_core",
    "PE, large": "pe_core_large",
    "timm ViT": "vit_clip",
    "timm ViT, relative positions": "vit_relpos",
    "timm ViT, mean": "vit_gap",
    "timm ResNet": "resnet",
    "Swin": "swin",
}
TEXT_TOWERS: dict[str, CLIPTextCfg] = {
    "CLIP's text tower": CLIPTextCfg(**TEXT),
    "CoCa's text tower": CLIPTextCfg(embed_cls=True, **TEXT),
    "SigLIP's text tower": CLIPTextCfg(pool_type="last", no_causal_mask=True, proj_bias=True, **TEXT),
    "text tower, first token": CLIPTextCfg(pool_type="first", no_causal_mask=True, **TEXT),
    "text tower, end token": CLIPTextCfg(pool_type="eos", **TEXT),
}
IMAGES = (*IMAGE_TOWERS, "CoCa", *TIMM)
TEXTS = (*TEXT_TOWERS, *small_towers.TEXT)
FAMILIES = (*IMAGES, *TEXTS)
LENGTH = 12  # tokens


def tower_and_inputs(family: str, folder: Path) -> tuple[nn.Module, list[Tensor], int | None]:
    """Make a tower of `FAMILIES`, inputs of several sizes, and the greatest length of a text if it is dynamic."""
    if family in IMAGES:
        random = torch.Generator().manual_seed(1)
        images = [torch.randn(size, 3, PIXELS, PIXELS, generator=random) for size in (1, 2, 7)]
        return ExportedImageTower(build(image_cfg(family))), images, None
    model: Any = build(text_cfg(family, folder))
    pad, end = getattr(model.text, "pad_id", 0), 2 if family == "text tower, end token" else 89
    is_dynamic = model.text_pooling().may_crop_padding
    sizes = [(1, LENGTH), (2, LENGTH), (7, LENGTH), *([(2, 5), (1, 1)] if is_dynamic else [])]
    ids = [_ids(pad, batch, length, end) for batch, length in sizes]
    return ExportedTextTower(model), ids, LENGTH if is_dynamic else None


def _ids(pad: int, batch: int, length: int, end: int) -> Tensor:
    """Make texts of 3 tokens and more, which the end token ends."""
    ids = torch.full((batch, length), pad)
    for row in range(batch):
        count = min(length, 3 + row)
        ids[row, :count] = torch.arange(4, 4 + count) + row
        ids[row, count - 1] = end
    return ids


def image_cfg(name: str) -> ModelCfg:
    """Make the configuration of a model with an image tower of `IMAGE_TOWERS`, `TIMM` or "CoCa"."""
    if name == "CoCa":
        return coca_cfg()
    if name in TIMM:
        small_towers.register()
        pool = "map" if name.startswith("PE") else "avg"
        vision = CLIPVisionCfg(
            timm_model_name=small_towers.timm_name(TIMM[name]), image_size=PIXELS, timm_pool=pool
        )
        return tiny_cfg(vision_cfg=vision, text_cfg=CLIPTextCfg(**TEXT), custom_text=True)
    return tiny_cfg(embed_dim=32, vision_cfg=IMAGE_TOWERS[name], text_cfg=CLIPTextCfg(**TEXT))


def text_cfg(name: str, folder: Path, **changes: Any) -> ModelCfg:
    """Make the configuration of a model with a text tower of `TEXT_TOWERS`, or a kind of `small_towers.TEXT`."""
    if name in TEXT_TOWERS:
        text = replace(TEXT_TOWERS[name], **changes)
    else:
        path = small_towers.text_folder(name, folder)
        text = CLIPTextCfg(
            **{
                "context_length": 12,
                "hf_model_name": path,
                "hf_model_pretrained": False,
                "hf_proj_type": "linear",
                **changes,
            }
        )
    return tiny_cfg(embed_dim=32, vision_cfg=_vit(), text_cfg=text, custom_text=True)


def build(cfg: ModelCfg) -> nn.Module:
    """Build a model whose weights are large enough to tell inputs apart."""
    torch.manual_seed(0)
    model: nn.Module = build_model(cfg).eval()
    return model
