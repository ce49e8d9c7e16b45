"""transformers' `ChineseCLIPModel` to a `CustomTextCLIP` with a BERT for its text tower, and back.

The visual tower is CLIP's. The text tower is a BERT of one of the sizes that are published for Chinese, pooled at its
first token; it is built by transformers (extra `hf`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from oneclip import zoo
from oneclip.checkpoint.formats.base import Converted, Published
from oneclip.checkpoint.formats.keymap import KeyMap, same
from oneclip.checkpoint.formats.transformers_clip import (
    VISION_DEFAULTS,
    VISUAL_RULES,
    read_logit_scale,
    read_vision,
    write_vision,
)
from oneclip.checkpoint.formats.transformers_common import (
    checked,
    no_captioner,
    part_of,
    read_tokenizer_facts,
    write_tokenizer_facts,
)
from oneclip.checkpoint.formats.transformers_pixels import read_pixels, write_pixels
from oneclip.config import CLIPTextCfg, ModelCfg, PreprocessCfg
from oneclip.errors import ConfigError

FORM = "transformers' ChineseCLIPModel"
CONTEXT_LENGTH = 52  # tokens of a caption, as it was trained (Yang et al. 2022, Chinese CLIP)
POOLER, PROJECTION = "cls_last_hidden_state_pooler", "linear"

KEYS = KeyMap(
    (
        *VISUAL_RULES,
        same("text_projection.weight", "text.proj.weight"),
        same("text_model.**", "text.transformer.**"),
        same("logit_scale", "logit_scale"),
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
    """The format of transformers' Chinese-CLIP folders."""

    name = "transformers Chinese-CLIP"

    def recognises(self, state_dict: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> bool:
        """By `model_type`, or by the names of both towers."""
        if config is not None and "model_type" in config:
            return bool(config["model_type"] == "chinese_clip")
        names = ("vision_model.embeddings.class_embedding", "text_model.embeddings.word_embeddings.weight")
        return "text_projection.weight" in state_dict and all(name in state_dict for name in names)

    def read(
        self,
        state_dict: Mapping[str, Tensor],
        config: Mapping[str, Any] | None = None,
        preprocessor: Mapping[str, Any] | None = None,
    ) -> Converted:
        """Theirs to ours; see `Format.read`."""
        tensors = KEYS.read(state_dict)
        if config is None:
            return Converted(tensors)
        cfg = read_tokenizer_facts(read_config(config), config)
        return Converted(tensors, cfg, read_pixels(preprocessor, cfg.vision_cfg.image_size))

    def write(self, model: Converted) -> Published:
        """Ours to theirs; see `Format.write`."""
        if model.cfg is None:
            raise ConfigError(f"{FORM} needs the configuration of the model")
        config = write_config(model.cfg)
        pixels = model.preprocess_cfg or PreprocessCfg(config["vision_config"]["image_size"])
        return Published(KEYS.write(model.state_dict), config, write_pixels(pixels, "ChineseCLIP"))


def is_chinese_clip(cfg: ModelCfg) -> bool:
    """Whether a configuration is of this kind."""
    tower = zoo.text_tower(cfg.text_cfg.hf_model_name or "") or {}
    return tower.get("model_type") == "bert"


def read_config(config: Mapping[str, Any]) -> ModelCfg:
    """`config.json` to our configuration."""
    vision_cfg, quick_gelu = read_vision(part_of(config, "vision_config", VISION_DEFAULTS))
    name = _name_of(part_of(config, "text_config", TEXT_DEFAULTS))
    return ModelCfg(
        embed_dim=checked(config.get("projection_dim", 512), 512, "projection_dim"),
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
    """Our configuration to `config.json`.

    Raises:
        ConfigError: for what this layout has no place for.
    """
    no_captioner(cfg, FORM)
    text = cfg.text_cfg
    if not is_chinese_clip(cfg):
        raise ConfigError(
            f"{FORM} has a BERT for its text tower, this model {text.hf_model_name or 'its own'}"
        )
    if (text.hf_pooler_type, text.hf_proj_type) != (POOLER, PROJECTION):
        raise ConfigError(
            f"{FORM} pools by {POOLER} and projects by {PROJECTION}, "
            f"this model by {text.hf_pooler_type} and {text.hf_proj_type}"
        )
    if cfg.init_logit_bias is not None:
        raise ConfigError(f"{FORM} has no logit_bias")
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
        **write_tokenizer_facts(text),
    }


def _name_of(text: Mapping[str, Any]) -> str:
    """The published BERT that has these numbers."""
    for name in zoo.text_towers():
        tower = zoo.text_tower(name) or {}
        if tower.get("model_type") == "bert" and all(
            tower.get(key, value) == value for key, value in text.items()
        ):
            return name
    numbers = ", ".join(f"{key}={value}" for key, value in text.items())
    raise ConfigError(
        f"the text tower of this ChineseCLIPModel has the size of no published BERT ({numbers})"
    )
