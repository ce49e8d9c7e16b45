"""What is computed: towers and models, tensors in and tensors out."""

from oneclip.model.attention import Attention, AttentionalPooler
from oneclip.model.build import build_model, build_text_tower, build_visual_tower
from oneclip.model.clip import CLIP, CustomTextCLIP
from oneclip.model.coca import CoCa
from oneclip.model.decoder import CrossAttentionBlock, MultimodalTransformer
from oneclip.model.dual import DualEncoder
from oneclip.model.layers import LayerNorm, LayerScale, PatchDropout, QuickGELU
from oneclip.model.resnet import AttentionPool2d, Bottleneck, ModifiedResNet
from oneclip.model.siglip import SigLIPVision
from oneclip.model.text import TextTower, TextTransformer
from oneclip.model.transformer import BlockCfg, ResidualAttentionBlock, Transformer
from oneclip.model.vision import VisionTransformer

__all__ = [
    "CLIP",
    "Attention",
    "AttentionPool2d",
    "AttentionalPooler",
    "BlockCfg",
    "Bottleneck",
    "CoCa",
    "CrossAttentionBlock",
    "CustomTextCLIP",
    "DualEncoder",
    "LayerNorm",
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
