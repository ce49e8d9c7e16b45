"""Towers, dual encoders and CoCa: the networks, from tensors to tensors."""

from oneclip.model.attention import Attention, AttentionalPooler
from oneclip.model.build import build_text_tower, build_visual_tower
from oneclip.model.clip import CLIP, CustomTextCLIP
from oneclip.model.coca import CoCa
from oneclip.model.decoder import MultimodalTransformer
from oneclip.model.dual_encoder import DualEncoder
from oneclip.model.factory import build_model
from oneclip.model.layers import LayerNorm, LayerNormFp32, LayerScale, PatchDropout, QuickGELU
from oneclip.model.protocols import ImageTower, TextTower
from oneclip.model.resnet import AttentionPool2d, Bottleneck, ModifiedResNet
from oneclip.model.siglip import SigLIPVision
from oneclip.model.text import TextTransformer
from oneclip.model.transformer import (
    CustomResidualAttentionBlock,
    CustomTransformer,
    ResidualAttentionBlock,
    Transformer,
)
from oneclip.model.vision import VisionTransformer

__all__ = [
    "CLIP",
    "Attention",
    "AttentionPool2d",
    "AttentionalPooler",
    "Bottleneck",
    "CoCa",
    "CustomResidualAttentionBlock",
    "CustomTextCLIP",
    "CustomTransformer",
    "DualEncoder",
    "ImageTower",
    "LayerNorm",
    "LayerNormFp32",
    "LayerScale",
    "ModifiedResNet",
    "MultimodalTransformer",
    "PatchDropout",
    "QuickGELU",
    "ResidualAttentionBlock",
    "SigLIPVision",
    "TextTower",
    "TextTransformer",
    "Transformer",
    "VisionTransformer",
    "build_model",
    "build_text_tower",
    "build_visual_tower",
]
