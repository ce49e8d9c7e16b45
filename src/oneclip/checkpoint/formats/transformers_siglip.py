"""Checkpoints of transformers' `SiglipModel` and `Siglip2Model`.

SigLIP 2 of fixed resolution is published as a `SiglipModel`. `Siglip2Model` (NaFlex) computes the same for square
images of its native resolution; its preprocessing, which keeps the aspect ratio of images, is not supported here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from oneclip.checkpoint.formats.base import ForeignCheckpoint, NativeCheckpoint
from oneclip.checkpoint.formats.keymap import KeyMap, Rule, Tensors, concatenated, renamed, reshaped
from oneclip.checkpoint.formats.transformers_common import (
    TOKENIZER_FIELDS,
    block_rules,
    check_square,
    check_value,
    mlp_ratio,
    read_activation,
    read_norm_eps,
    read_tokenizer_fields,
    read_tower,
    require_defaults,
    require_dual_encoder,
    write_activation,
    write_norm_eps,
    write_tokenizer_fields,
)
from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg, PreprocessCfg
from oneclip.errors import ConfigError
from oneclip.image.transformers_preprocessor import HALF, read_preprocessor, write_preprocessor
from oneclip.model.siglip_names import TrunkCfg, is_siglip
from oneclip.text.factory import TOKENIZER_IN_MODEL_FOLDER

FORM = "transformers' SiglipModel"
INIT_LOGIT_BIAS = -10.0  # Zhai et al. 2023, section 3.2

# Size of a vocabulary to the repository of its tokenizer, for folders without a tokenizer.
VOCABULARIES = {
    32000: "timm/ViT-B-16-SigLIP",
    250000: "timm/ViT-B-16-SigLIP-i18n-256",
    256000: "timm/ViT-B-16-SigLIP2",
}
CLEAN = "canonicalize"  # in all configurations of open_clip with these vocabularies
HF_CLEAN = {256000: "lower"}  # where transformers differs: it keeps the punctuation for SigLIP 2

_BLOCKS, _OUR_BLOCKS = "vision_model.encoder.layers", "visual.trunk.blocks"
_POOL, _OUR_POOL = "vision_model.head", "visual.trunk.attn_pool"
RULES: tuple[Rule, ...] = (
    renamed("vision_model.embeddings.patch_embedding.bias", "visual.trunk.patch_embed.proj.bias"),
    Rule(
        ("vision_model.embeddings.position_embedding.weight",),
        ("visual.trunk.pos_embed",),
        read=lambda tensors: (tensors[0][None],),
        write=lambda tensors: (tensors[0][0],),
    ),
    *(
        concatenated(
            [f"{_BLOCKS}.*.self_attn.{part}_proj.{kind}" for part in "qkv"],
            f"{_OUR_BLOCKS}.*.attn.qkv.{kind}",
        )
        for kind in ("weight", "bias")
    ),
    renamed(f"{_BLOCKS}.*.self_attn.out_proj.*", f"{_OUR_BLOCKS}.*.attn.proj.*"),
    renamed(f"{_BLOCKS}.*.layer_norm1.*", f"{_OUR_BLOCKS}.*.norm1.*"),
    renamed(f"{_BLOCKS}.*.layer_norm2.*", f"{_OUR_BLOCKS}.*.norm2.*"),
    renamed(f"{_BLOCKS}.*.mlp.*.*", f"{_OUR_BLOCKS}.*.mlp.*.*"),
    renamed("vision_model.post_layernorm.*", "visual.trunk.norm.*"),
    renamed(f"{_POOL}.probe", f"{_OUR_POOL}.latent"),
    *(
        concatenated(
            f"{_POOL}.attention.in_proj_{kind}",
            [f"{_OUR_POOL}.{part}.{kind}" for part in ("q", "kv")],
            (1, 2),
        )
        for kind in ("weight", "bias")
    ),
    renamed(f"{_POOL}.attention.out_proj.*", f"{_OUR_POOL}.proj.*"),
    renamed(f"{_POOL}.layernorm.*", f"{_OUR_POOL}.norm.*"),
    renamed(f"{_POOL}.mlp.*.*", f"{_OUR_POOL}.mlp.*.*"),
    renamed("text_model.embeddings.token_embedding.weight", "text.token_embedding.weight"),
    renamed("text_model.embeddings.position_embedding.weight", "text.positional_embedding"),
    renamed("text_model.final_layer_norm.*", "text.ln_final.*"),
    renamed("text_model.head.*", "text.text_projection.*"),
    *block_rules("text_model.encoder.layers", "text.transformer.resblocks"),
    *(reshaped(name, name, (), (1,)) for name in ("logit_scale", "logit_bias")),
)
_PATCH = "vision_model.embeddings.patch_embedding.weight", "visual.trunk.patch_embed.proj.weight"


def _patches_to_rows(tensors: Tensors) -> Tensors:
    """Convert (C, 3, P, P) of a convolution to (C, P * P * 3) of a linear layer, with the channels last."""
    return (tensors[0].permute(0, 2, 3, 1).flatten(1),)


def _rows_to_patches(tensors: Tensors) -> Tensors:
    """Convert (C, P * P * 3) to (C, 3, P, P)."""
    side = math.isqrt(tensors[0].shape[1] // 3)
    return (tensors[0].reshape(-1, side, side, 3).permute(0, 3, 1, 2).contiguous(),)


VISION_DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 16,
    "num_patches": 256,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "vision_use_head": True,
}
TEXT_DEFAULTS = {
    "vocab_size": 32000,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 64,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}


def has_siglip_tower(cfg: ModelCfg) -> bool:
    """Check whether a model has SigLIP's image tower, the only one that this format supports."""
    return is_siglip(cfg.vision_cfg)


class TransformersSigLIP:
    """Format of transformers for SigLIP, or for SigLIP 2 with NaFlex.

    Args:
        model_type: "siglip" or "siglip2".
    """

    def __init__(self, model_type: str) -> None:
        self.model_type = model_type
        self.name = {"siglip": "transformers SigLIP", "siglip2": "transformers SigLIP 2 (NaFlex)"}[model_type]
        patch = Rule((_PATCH[0],), (_PATCH[1],), _rows_to_patches, _patches_to_rows)
        self.keys = KeyMap(
            (*RULES, patch if model_type == "siglip2" else renamed(*_PATCH)),
            ignored=("*.embeddings.position_ids",),
        )

    def matches(self, state_dict: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> bool:
        """Match `model_type`, or without a config the names of the pooling and of the patches."""
        if config is not None and "model_type" in config:
            return bool(config["model_type"] == self.model_type)
        axes = 2 if self.model_type == "siglip2" else 4
        return (
            f"{_POOL}.probe" in state_dict and _PATCH[0] in state_dict and state_dict[_PATCH[0]].ndim == axes
        )

    def read(self, theirs: ForeignCheckpoint) -> NativeCheckpoint:
        """Convert to our names; see `CheckpointFormat.read`."""
        tensors = self.keys.read(theirs.state_dict)
        if theirs.config is None:
            return NativeCheckpoint(tensors)
        cfg = read_tokenizer_fields(read_config(theirs.config), theirs.config)
        return NativeCheckpoint(
            tensors, cfg, read_preprocessor(theirs.preprocessor, cfg.vision_cfg.image_size)
        )

    def write(self, model: NativeCheckpoint) -> ForeignCheckpoint:
        """Convert to their names; see `CheckpointFormat.write`."""
        cfg = model.require_cfg(FORM)
        config = write_config(cfg, self.model_type)
        default = PreprocessCfg(cfg.vision_cfg.image_size, mean=HALF, std=HALF, resize_mode="squash")
        preprocessor = write_preprocessor(model.preprocess_cfg or default, "Siglip")
        return ForeignCheckpoint(
            self.keys.write(model.state_dict), config, preprocessor, _notes(cfg.text_cfg)
        )


def read_config(config: Mapping[str, Any]) -> ModelCfg:
    """Convert `config.json` to our configuration."""
    vision = read_tower(config, "vision_config", VISION_DEFAULTS)
    text = read_tower(config, "text_config", TEXT_DEFAULTS)
    projection = (config.get("text_config") or {}).get("projection_size") or text["hidden_size"]
    quick_gelu, act_kwargs = read_activation(text["hidden_act"], "the text tower")
    if quick_gelu:
        raise ConfigError("the text tower has quick_gelu; SigLIP has GELU")
    if not vision["vision_use_head"]:
        raise ConfigError("vision_use_head is false; without pooling the visual tower has no features")
    return ModelCfg(
        embed_dim=check_value(projection, 768, "projection_size"),
        vision_cfg=_read_vision(vision, config.get("model_type") == "siglip2"),
        text_cfg=CLIPTextCfg(
            context_length=text["max_position_embeddings"],
            vocab_size=text["vocab_size"],
            hf_tokenizer_name=VOCABULARIES.get(text["vocab_size"], TOKENIZER_IN_MODEL_FOLDER),
            tokenizer_kwargs={"clean": CLEAN},
            width=text["hidden_size"],
            heads=text["num_attention_heads"],
            layers=text["num_hidden_layers"],
            mlp_ratio=mlp_ratio(text["intermediate_size"], text["hidden_size"]),
            no_causal_mask=True,
            proj_bias=True,
            pool_type="last",
            act_kwargs=act_kwargs,
            norm_kwargs=read_norm_eps(text["layer_norm_eps"]),
        ),
        custom_text=True,
        init_logit_bias=INIT_LOGIT_BIAS,
    )


def _read_vision(vision: Mapping[str, Any], naflex: bool) -> CLIPVisionCfg:
    """Convert `vision_config`; to a name of timm if that computes the same, else to numbers."""
    quick_gelu, act_kwargs = read_activation(vision["hidden_act"], "the visual tower")
    if quick_gelu or vision["num_channels"] != 3:
        raise ConfigError(
            f"the visual tower has {vision['hidden_act']} and {vision['num_channels']} channels; "
            "expected a GELU and 3 channels"
        )
    patch_size = check_square(vision["patch_size"], "patch_size")
    image_size = check_square(vision["image_size"], "image_size")
    if naflex:
        image_size = patch_size * math.isqrt(vision["num_patches"])
    by_numbers = CLIPVisionCfg(
        layers=vision["num_hidden_layers"],
        width=vision["hidden_size"],
        head_width=vision["hidden_size"] // vision["num_attention_heads"],
        mlp_ratio=mlp_ratio(vision["intermediate_size"], vision["hidden_size"]),
        patch_size=patch_size,
        image_size=image_size,
        pool_type="map",
        act_kwargs=act_kwargs,
        norm_kwargs={"eps": vision["layer_norm_eps"]},
    )
    trunk = TrunkCfg.of_cfg(by_numbers)
    return by_numbers if trunk is None else trunk.to_cfg(image_size)


def write_config(cfg: ModelCfg, model_type: str = "siglip") -> dict[str, Any]:
    """Convert our configuration to `config.json`.

    Raises:
        ConfigError: for fields that the format cannot store.
    """
    require_dual_encoder(cfg, FORM)
    text = cfg.text_cfg
    if not cfg.custom_text or cfg.init_logit_bias is None or text.hf_model_name or cfg.quick_gelu:
        raise ConfigError(
            f"{FORM} requires SigLIP's own text tower, a logit_bias and GELU; this model differs"
        )
    shape = (
        "context_length",
        "vocab_size",
        "width",
        "heads",
        "layers",
        "mlp_ratio",
        "act_kwargs",
        "norm_kwargs",
    )
    tokenizer = (*TOKENIZER_FIELDS, "pad_id", "eos_id")
    require_defaults(
        replace(text, no_causal_mask=False, proj_bias=False, pool_type="argmax"), (*shape, *tokenizer), FORM
    )
    if not text.no_causal_mask or not text.proj_bias or text.pool_type != "last":
        raise ConfigError(
            f"{FORM} requires a text tower without causal mask, pooled at the end, projected with a bias; found "
            f"no_causal_mask={text.no_causal_mask}, pool_type={text.pool_type!r}, proj_bias={text.proj_bias}"
        )
    return {
        "architectures": [{"siglip": "SiglipModel", "siglip2": "Siglip2Model"}[model_type]],
        "model_type": model_type,
        "text_config": {
            "model_type": f"{model_type}_text_model",
            "vocab_size": text.vocab_size,
            "hidden_size": text.width,
            "intermediate_size": int(text.width * text.mlp_ratio),
            "num_hidden_layers": text.layers,
            "num_attention_heads": text.heads,
            "max_position_embeddings": text.context_length,
            "hidden_act": write_activation(False, text.act_kwargs),
            "layer_norm_eps": write_norm_eps(text.norm_kwargs),
            "projection_size": cfg.embed_dim,
        },
        "vision_config": {"model_type": f"{model_type}_vision_model"}
        | _write_vision(cfg.vision_cfg, model_type),
        **write_tokenizer_fields(text),
    }


def _notes(text: CLIPTextCfg) -> tuple[str, ...]:
    """Describe how the tokenizer of transformers differs."""
    ours, theirs = (text.tokenizer_kwargs or {}).get("clean"), HF_CLEAN.get(text.vocab_size, CLEAN)
    if text.vocab_size not in VOCABULARIES or ours == theirs:
        return ()
    return (f"texts are cleaned by {ours!r} here, and by {theirs!r} in transformers",)


def _write_vision(cfg: CLIPVisionCfg, model_type: str) -> dict[str, Any]:
    trunk = TrunkCfg.of_cfg(cfg) if is_siglip(cfg) else None
    if trunk is None:
        raise ConfigError(f"{FORM} supports only SigLIP's image tower; this model has another")
    image_size, width = check_square(cfg.image_size, "image_size"), trunk.size.width
    resolution = {"image_size": image_size}
    if model_type == "siglip2":
        resolution = {"num_patches": (image_size // trunk.patch_size) ** 2}
    return {
        "hidden_size": width,
        "intermediate_size": int(width * trunk.size.mlp_ratio),
        "num_hidden_layers": trunk.size.layers,
        "num_attention_heads": trunk.size.heads,
        "num_channels": 3,
        "patch_size": trunk.patch_size,
        "hidden_act": write_activation(False, {"approximate": trunk.gelu}),
        "layer_norm_eps": trunk.eps,
        **resolution,
    }
