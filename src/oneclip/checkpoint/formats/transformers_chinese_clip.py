"""Checkpoints of transformers' `ChineseCLIPModel`.

The image tower is CLIP's. The text tower is a BERT of one of the sizes published for Chinese, pooled at its first
token; it is built by transformers (extra `hf`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from oneclip import zoo
from oneclip.checkpoint.formats.base import ForeignCheckpoint, NativeCheckpoint
from oneclip.checkpoint.formats.keymap import KeyMap, renamed
from oneclip.checkpoint.formats.transformers_clip import (
    VISION_DEFAULTS,
    VISUAL_RULES,
    read_logit_scale,
    read_vision,
    write_vision,
)
from oneclip.checkpoint.formats.transformers_common import (
    check_value,
    read_tokenizer_fields,
    read_tower,
    require_dual_encoder,
    write_tokenizer_fields,
)
from oneclip.config import CLIPTextCfg, ModelCfg, PreprocessCfg
from oneclip.errors import ConfigError
from oneclip.image.transformers_preprocessor import read_preprocessor, write_preprocessor

FORM = "transformers' ChineseCLIPModel"
CONTEXT_LENGTH = 52  # tokens of a text in training (Yang et al. 2022, Chinese CLIP)
POOLER, PROJECTION = "cls_last_hidden_state_pooler", "linear"

KEYS = KeyMap(
    (
        *VISUAL_RULES,
        renamed("text_projection.weight", "text.proj.weight"),
        renamed("text_model.**", "text.transformer.**"),
        renamed("logit_scale", "logit_scale"),
    ),
    ignored=("*.embeddings.position_ids", "text_model.embeddings.token_type_ids"),
)
TEXT_DEFAULTS = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
}


class TransformersChineseCLIP:
    """Format of transformers for Chinese-CLIP."""

    name = "transformers Chinese-CLIP"

    def matches(self, state_dict: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> bool:
        """Match `model_type`, or without a config the names of both towers."""
        if config is not None and "model_type" in config:
            return bool(config["model_type"] == "chinese_clip")
        names = ("vision_model.embeddings.class_embedding", "text_model.embeddings.word_embeddings.weight")
        return "text_projection.weight" in state_dict and all(name in state_dict for name in names)

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
        preprocessor = write_preprocessor(preprocess_cfg, "ChineseCLIP")
        return ForeignCheckpoint(KEYS.write(model.state_dict), config, preprocessor)


def is_chinese_clip(cfg: ModelCfg) -> bool:
    """Check whether a model has a BERT as text tower."""
    tower = zoo.text_tower(cfg.text_cfg.hf_model_name or "") or {}
    return tower.get("model_type") == "bert"


def read_config(config: Mapping[str, Any]) -> ModelCfg:
    """Convert `config.json` to our configuration."""
    vision_cfg, quick_gelu = read_vision(read_tower(config, "vision_config", VISION_DEFAULTS))
    name = _published_bert(read_tower(config, "text_config", TEXT_DEFAULTS))
    return ModelCfg(
        embed_dim=check_value(config.get("projection_dim", 512), 512, "projection_dim"),
        vision_cfg=vision_cfg,
        text_cfg=CLIPTextCfg(
            context_length=CONTEXT_LENGTH,
            hf_tokenizer_name=name,
            hf_model_name=name,
            hf_model_pretrained=False,
            hf_proj_type=PROJECTION,
            hf_pooler_type=POOLER,
        ),
        quick_gelu=quick_gelu,
        custom_text=True,
        init_logit_scale=read_logit_scale(config),
    )


def write_config(cfg: ModelCfg) -> dict[str, Any]:
    """Convert our configuration to `config.json`.

    Raises:
        ConfigError: for fields that the format cannot store.
    """
    require_dual_encoder(cfg, FORM)
    text = cfg.text_cfg
    if not is_chinese_clip(cfg):
        raise ConfigError(
            f"{FORM} requires a BERT as text tower, and this model has {text.hf_model_name or 'its own'}"
        )
    if (text.hf_pooler_type, text.hf_proj_type) != (POOLER, PROJECTION):
        raise ConfigError(
            f"{FORM} requires hf_pooler_type {POOLER} and hf_proj_type {PROJECTION}, and this model has "
            f"{text.hf_pooler_type} and {text.hf_proj_type}"
        )
    if cfg.init_logit_bias is not None:
        raise ConfigError(f"{FORM} cannot store a logit_bias")
    numbers = zoo.text_tower(str(text.hf_model_name)) or {}
    tower = {key: numbers.get(key, default) for key, default in TEXT_DEFAULTS.items()}
    return {
        "architectures": ["ChineseCLIPModel"],
        "model_type": "chinese_clip",
        "projection_dim": cfg.embed_dim,
        "logit_scale_init_value": cfg.init_logit_scale,
        "text_config": {"model_type": "chinese_clip_text_model"} | tower,
        "vision_config": {"model_type": "chinese_clip_vision_model", "projection_dim": cfg.embed_dim}
        | write_vision(cfg.vision_cfg, cfg.quick_gelu, FORM),
        **write_tokenizer_fields(text),
    }


def _published_bert(text: Mapping[str, Any]) -> str:
    """Return the name of the published BERT with these sizes."""
    for name in zoo.text_towers():
        tower = zoo.text_tower(name) or {}
        if tower.get("model_type") == "bert" and all(
            tower.get(key, value) == value for key, value in text.items()
        ):
            return name
    numbers = ", ".join(f"{key}={value}" for key, value in text.items())
    raise ConfigError(f"the text tower of this ChineseCLIPModel has no size of a published BERT ({numbers})")
