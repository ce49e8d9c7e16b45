"""Small towers of every family in timm and transformers: registered with timm, or written as folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PIXELS = 32

# timm's published model, and the arguments that make it small
VIT = {"img_size": PIXELS, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2}
TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "eva01": ("eva_giant_patch14_224", VIT),
    "eva02": ("eva02_base_patch16_clip_224", VIT),
    "eva02_large": ("eva02_large_patch14_clip_336", VIT),
    "eva02_enormous": ("eva02_enormous_patch14_clip_224", VIT),
    "pe_core": ("vit_pe_core_tiny_patch16_384", VIT),
    "pe_core_large": ("vit_pe_core_large_patch14_336", VIT),
    "vit_relpos": ("vit_relpos_medium_patch16_cls_224", VIT),
    "vit_gap": ("vit_medium_patch16_gap_256", VIT),
    "vit_clip": ("vit_large_patch14_clip_224", VIT),
    "convnext": ("convnext_base", {"depths": (1, 1, 2, 1), "dims": (16, 24, 32, 64)}),
    "convnext_xxlarge": ("convnext_xxlarge", {"depths": (1, 1, 2, 1), "dims": (16, 24, 32, 64)}),
    "resnet": ("resnet18", {"layers": (1, 1, 1, 1), "channels": (16, 24, 32, 64)}),
    "fastvit": ("fastvit_mci0", {"layers": (1, 1, 1, 1), "embed_dims": (8, 16, 32, 64)}),
    "fastvit_five": ("fastvit_mci3", {"layers": (1, 1, 1, 1, 1), "embed_dims": (8, 16, 32, 64, 128)}),
    "swin": (
        "swin_base_patch4_window7_224",
        {"img_size": PIXELS, "window_size": 4, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4)},
    ),
    "vitamin": ("vitamin_small_224", {"img_size": PIXELS, "embed_dim": 64, "depth": 2, "num_heads": 2}),
    "vitamin_xlarge": (
        "vitamin_xlarge_384",
        {"img_size": PIXELS, "embed_dim": 64, "depth": 2, "num_heads": 2},
    ),
    "mobileclip_b": ("vit_base_mci_224", {"img_size": PIXELS, "embed_dim": 64, "depth": 2, "num_heads": 2}),
}

IDS = 90  # size of each vocabulary
_BERT = {
    "vocab_size": IDS,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}
_XLM = {
    **_BERT,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
TEXT: dict[str, dict[str, Any]] = {
    "bert": {"model_type": "bert", **_BERT, "pad_token_id": 0},
    "roberta": {"model_type": "roberta", **_XLM},
    "xlm-roberta": {"model_type": "xlm-roberta", **_XLM},
    "mt5": {
        "model_type": "mt5",
        "vocab_size": IDS,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 48,
        "num_layers": 2,
        "num_decoder_layers": 1,
        "num_heads": 2,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "is_encoder_decoder": True,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    },
    "m2m_100": {
        "model_type": "m2m_100",
        "vocab_size": IDS,
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "max_position_embeddings": 40,
        "activation_function": "relu",
        "scale_embedding": True,
        "is_encoder_decoder": True,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
    },
}


def timm_name(family: str) -> str:
    """Return the name under which a small model is registered."""
    return f"small_{family}"


def register() -> None:
    """Register the small models with timm; it can be called more than once."""
    import timm

    for family, (published, changes) in TIMM.items():
        if not timm.is_model(timm_name(family)):
            entry = _entry(timm_name(family), published, changes)
            globals()[entry.__name__] = entry
            timm.models.register_model(entry)


def _entry(name: str, published: str, changes: dict[str, Any]) -> Any:
    def make(pretrained: bool = False, **arguments: Any) -> Any:
        from timm.models import model_entrypoint

        arguments.pop("pretrained_cfg", None)
        if published == "vit_base_mci_224":
            return _mobileclip_b(pretrained, {**changes, **arguments})
        if published.startswith("vitamin"):
            arguments["embed_cfg"] = _vitamin_stages()
        return model_entrypoint(published)(pretrained=pretrained, **{**changes, **arguments})

    make.__name__, make.__module__ = name, __name__
    return make


def _vitamin_stages() -> Any:
    from timm.models.vitamin import VitCfg, VitConvCfg

    convolutions = VitConvCfg(norm_layer="layernorm2d", norm_eps=1e-6)
    return VitCfg(
        embed_dim=(16, 32, 64), depths=(1, 1, 1), stem_width=16, conv_cfg=convolutions, head_type="1d"
    )


def _mobileclip_b(pretrained: bool, arguments: dict[str, Any]) -> Any:
    """Build timm's `vit_base_mci_224` with a narrow stem, which no argument can change."""
    from timm.models import vision_transformer_hybrid as hybrid
    from torch import nn

    stem = hybrid.ConvStem(
        channels=(16, 16, 64), stride=(4, 2, 2), kernel_size=(4, 2, 2), padding=0, act_layer=nn.GELU
    )
    return hybrid._create_vision_transformer_hybrid(
        "vit_base_mci_224",
        backbone=stem,
        embed_args={"proj": False},
        pretrained=pretrained,
        no_embed_class=True,
        **arguments,
    )


def text_folder(kind: str, parent: Path) -> str:
    """Write a folder with the `config.json` of a small Hugging Face text model."""
    folder = parent / kind
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(TEXT[kind]), encoding="utf-8")
    return str(folder)
