"""Checkpoints of transformers' `CLIPModel` and `MetaClip2Model`.

Both store OpenAI's vision transformers; ResNets, towers of timm and custom blocks are not supported. They differ in the
token that the text tower pools.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from oneclip.checkpoint.formats.base import ForeignCheckpoint, NativeCheckpoint
from oneclip.checkpoint.formats.keymap import KeyMap, Rule, renamed, transposed
from oneclip.checkpoint.formats.transformers_common import (
    CLIP_VOCABULARY,
    TOKENIZER_FIELDS,
    block_rules,
    check_number,
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
from oneclip.config import INIT_LOGIT_SCALE, CLIPTextCfg, CLIPVisionCfg, ModelCfg, PreprocessCfg
from oneclip.errors import ConfigError
from oneclip.image.transformers_preprocessor import read_preprocessor, write_preprocessor
from oneclip.text.factory import TOKENIZER_IN_MODEL_FOLDER

FORM = "transformers' CLIPModel"
LEGACY_EOS = 2  # with this id CLIPModel pools at the greatest id of a text, as CLIP was trained
MODEL_TYPES = {
    "argmax": ("clip", "CLIPModel"),
    "eos": ("metaclip_2", "MetaClip2Model"),
}  # pool_type of the text tower to (model_type, class)

VISUAL_RULES: tuple[Rule, ...] = (
    renamed("vision_model.embeddings.class_embedding", "visual.class_embedding"),
    renamed("vision_model.embeddings.patch_embedding.weight", "visual.conv1.weight"),
    renamed("vision_model.embeddings.position_embedding.weight", "visual.positional_embedding"),
    renamed("vision_model.pre_layrnorm.*", "visual.ln_pre.*"),  # their spelling
    renamed("vision_model.post_layernorm.*", "visual.ln_post.*"),
    transposed("visual_projection.weight", "visual.proj"),
    *block_rules("vision_model.encoder.layers", "visual.transformer.resblocks"),
)
KEYS = KeyMap(
    (
        *VISUAL_RULES,
        renamed("text_model.embeddings.token_embedding.weight", "token_embedding.weight"),
        renamed("text_model.embeddings.position_embedding.weight", "positional_embedding"),
        renamed("text_model.final_layer_norm.*", "ln_final.*"),
        transposed("text_projection.weight", "text_projection"),
        *block_rules("text_model.encoder.layers", "transformer.resblocks"),
        renamed("logit_scale", "logit_scale"),
    ),
    ignored=("*.embeddings.position_ids",),
)
VISION_DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
TEXT_DEFAULTS = {
    "vocab_size": CLIP_VOCABULARY,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "eos_token_id": CLIP_VOCABULARY - 1,
}


class TransformersCLIP:
    """Format of transformers for CLIP and MetaCLIP 2."""

    name = "transformers CLIP"

    def matches(self, state_dict: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> bool:
        """Match `model_type`, or without a config the names of both towers."""
        if config is not None and "model_type" in config:
            return config["model_type"] in ("clip", "metaclip_2")
        names = ("vision_model.embeddings.class_embedding", "text_model.embeddings.token_embedding.weight")
        return "visual_projection.weight" in state_dict and all(name in state_dict for name in names)

    def read(self, theirs: ForeignCheckpoint) -> NativeCheckpoint:
        """Convert to our names; see `CheckpointFormat.read`."""
        tensors = KEYS.read(theirs.state_dict)
        if theirs.config is None:
            return NativeCheckpoint(tensors)
        cfg = read_tokenizer_fields(read_config(theirs.config), theirs.config)
        return NativeCheckpoint(
            tensors, cfg, read_preprocessor(theirs.preprocessor, cfg.vision_cfg.image_size)
        )

    def write(self, model: NativeCheckpoint) -> ForeignCheckpoint:
        """Convert to their names; see `CheckpointFormat.write`."""
        config = write_config(model.require_cfg(FORM))
        preprocess_cfg = model.preprocess_cfg or PreprocessCfg(config["vision_config"]["image_size"])
        preprocessor = write_preprocessor(preprocess_cfg, "CLIP")
        return ForeignCheckpoint(KEYS.write(model.state_dict), config, preprocessor)


def read_config(config: Mapping[str, Any]) -> ModelCfg:
    """Convert `config.json` to our configuration."""
    vision = read_tower(config, "vision_config", VISION_DEFAULTS)
    text = read_tower(config, "text_config", TEXT_DEFAULTS)
    quick_gelu, act_kwargs = read_activation(text["hidden_act"], "the text tower")
    vision_cfg, visual_quick_gelu = read_vision(vision)
    if quick_gelu != visual_quick_gelu:
        raise ConfigError(
            f"the text tower has {text['hidden_act']}, the visual tower {vision['hidden_act']}; "
            "only models with QuickGELU in both towers or in none are supported"
        )
    eos, vocab_size = text["eos_token_id"], text["vocab_size"]
    # If end of text has the greatest id of the vocabulary, pooling at the greatest id finds it.
    at_greatest = eos == vocab_size - 1 or (eos == LEGACY_EOS and config.get("model_type") != "metaclip_2")
    return ModelCfg(
        embed_dim=check_value(config.get("projection_dim", 512), 512, "projection_dim"),
        vision_cfg=vision_cfg,
        text_cfg=CLIPTextCfg(
            context_length=text["max_position_embeddings"],
            vocab_size=vocab_size,
            hf_tokenizer_name=None if vocab_size == CLIP_VOCABULARY else TOKENIZER_IN_MODEL_FOLDER,
            width=text["hidden_size"],
            heads=text["num_attention_heads"],
            layers=text["num_hidden_layers"],
            mlp_ratio=mlp_ratio(text["intermediate_size"], text["hidden_size"]),
            pool_type="argmax" if at_greatest else "eos",
            eos_id=CLIPTextCfg.eos_id if at_greatest else eos,
            act_kwargs=act_kwargs,
            norm_kwargs=read_norm_eps(text["layer_norm_eps"]),
        ),
        quick_gelu=quick_gelu,
        init_logit_scale=read_logit_scale(config),
    )


def read_vision(vision: Mapping[str, Any]) -> tuple[CLIPVisionCfg, bool]:
    """Convert `vision_config` to (configuration of the image tower, whether it has QuickGELU)."""
    quick_gelu, act_kwargs = read_activation(vision["hidden_act"], "the visual tower")
    if vision["num_channels"] != 3:
        raise ConfigError(f"the visual tower needs {vision['num_channels']} channels; supported: 3")
    cfg = CLIPVisionCfg(
        layers=vision["num_hidden_layers"],
        width=vision["hidden_size"],
        head_width=vision["hidden_size"] // vision["num_attention_heads"],
        mlp_ratio=mlp_ratio(vision["intermediate_size"], vision["hidden_size"]),
        patch_size=check_square(vision["patch_size"], "patch_size"),
        image_size=check_square(vision["image_size"], "image_size"),
        act_kwargs=act_kwargs,
        norm_kwargs=read_norm_eps(vision["layer_norm_eps"]),
    )
    return cfg, quick_gelu


def read_logit_scale(config: Mapping[str, Any]) -> float:
    """Return the initial temperature, a logarithm; transformers stores the usual one with four digits."""
    value = check_number(config.get("logit_scale_init_value", 2.6592), "logit_scale_init_value")
    return INIT_LOGIT_SCALE if value == 2.6592 else value


def write_config(cfg: ModelCfg) -> dict[str, Any]:
    """Convert our configuration to `config.json`.

    Raises:
        ConfigError: for fields that the format cannot store.
    """
    require_dual_encoder(cfg, FORM)
    text = cfg.text_cfg
    vision = write_vision(cfg.vision_cfg, cfg.quick_gelu, FORM)
    if cfg.custom_text:
        raise ConfigError(f"{FORM} cannot store a text tower in a module of its own (custom_text)")
    if cfg.init_logit_bias is not None:
        raise ConfigError(f"{FORM} cannot store a logit_bias")
    own = (
        "context_length",
        "vocab_size",
        "width",
        "heads",
        "layers",
        "mlp_ratio",
        "act_kwargs",
        "norm_kwargs",
    )
    require_defaults(text, (*own, *TOKENIZER_FIELDS, "pool_type", "eos_id", "pad_id"), FORM)
    if text.pool_type not in MODEL_TYPES:
        raise ConfigError(f"{FORM} pools a text at its end, and this model has pool_type {text.pool_type!r}")
    at_clips_end = (
        text.pool_type == "eos" and text.eos_id == CLIP_VOCABULARY - 1
    )  # with tokens added behind it
    model_type, model_class = MODEL_TYPES["argmax" if at_clips_end else text.pool_type]
    return {
        "architectures": [model_class],
        "model_type": model_type,
        "projection_dim": cfg.embed_dim,
        "logit_scale_init_value": cfg.init_logit_scale,
        "text_config": {
            "model_type": f"{model_type}_text_model",
            "projection_dim": cfg.embed_dim,
            "vocab_size": text.vocab_size,
            "hidden_size": text.width,
            "intermediate_size": int(text.width * text.mlp_ratio),
            "num_hidden_layers": text.layers,
            "num_attention_heads": text.heads,
            "max_position_embeddings": text.context_length,
            "hidden_act": write_activation(cfg.quick_gelu, text.act_kwargs),
            "layer_norm_eps": write_norm_eps(text.norm_kwargs),
            "eos_token_id": _eos_token_id(text),
        },
        "vision_config": {"model_type": f"{model_type}_vision_model", "projection_dim": cfg.embed_dim}
        | vision,
        **write_tokenizer_fields(text),
    }


def write_vision(cfg: CLIPVisionCfg, quick_gelu: bool, form: str) -> dict[str, Any]:
    """Convert our configuration of a plain vision transformer to `vision_config`."""
    if not isinstance(cfg.layers, int):
        raise ConfigError(f"{form} supports only vision transformers, and this model has a ResNet")
    if cfg.timm_model_name:
        raise ConfigError(
            f"{form} supports only plain vision transformers, and this model has {cfg.timm_model_name} of timm"
        )
    numbers = ("layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size")
    require_defaults(cfg, (*numbers, "act_kwargs", "norm_kwargs", "patch_dropout", "output_tokens"), form)
    return {
        "hidden_size": cfg.width,
        "intermediate_size": int(cfg.width * cfg.mlp_ratio),
        "num_hidden_layers": cfg.layers,
        "num_attention_heads": cfg.width // cfg.head_width,
        "num_channels": 3,
        "image_size": check_square(cfg.image_size, "image_size"),
        "patch_size": check_square(cfg.patch_size, "patch_size"),
        "hidden_act": write_activation(quick_gelu, cfg.act_kwargs),
        "layer_norm_eps": write_norm_eps(cfg.norm_kwargs),
    }


def _eos_token_id(text: CLIPTextCfg) -> int:
    """Return the `eos_token_id` with which transformers pools at the same token."""
    if text.pool_type == "eos":
        return text.eos_id
    return CLIP_VOCABULARY - 1 if text.vocab_size == CLIP_VOCABULARY else LEGACY_EOS
