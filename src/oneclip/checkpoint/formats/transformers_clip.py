"""transformers' `CLIPModel` and `MetaClip2Model` to `CLIP`, and back.

Their layout is that of OpenAI's vision transformers; ResNets, towers of timm's and custom blocks do not fit into it.
The second differs from the first in which of a caption's tokens it pools.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from oneclip.checkpoint.formats.base import Converted, Published
from oneclip.checkpoint.formats.keymap import KeyMap, Rule, same, transposed
from oneclip.checkpoint.formats.transformers_common import (
    CLIP_VOCABULARY,
    TOKENIZER_FACTS,
    activation,
    activation_name,
    block_rules,
    checked,
    mlp_ratio,
    no_captioner,
    norm_eps,
    norm_kwargs,
    number,
    part_of,
    plain,
    read_tokenizer_facts,
    square,
    write_tokenizer_facts,
)
from oneclip.checkpoint.formats.transformers_pixels import read_pixels, write_pixels
from oneclip.config import INIT_LOGIT_SCALE, CLIPTextCfg, CLIPVisionCfg, ModelCfg, PreprocessCfg
from oneclip.errors import ConfigError
from oneclip.text.factory import BESIDE

FORM = "transformers' CLIPModel"
LEGACY_EOS = 2  # with this id CLIPModel pools the greatest id of a caption, as CLIP was trained
KINDS = {
    "argmax": ("clip", "CLIPModel"),
    "eos": ("metaclip_2", "MetaClip2Model"),
}  # by how a caption is pooled

VISUAL_RULES: tuple[Rule, ...] = (
    same("vision_model.embeddings.class_embedding", "visual.class_embedding"),
    same("vision_model.embeddings.patch_embedding.weight", "visual.conv1.weight"),
    same("vision_model.embeddings.position_embedding.weight", "visual.positional_embedding"),
    same("vision_model.pre_layrnorm.*", "visual.ln_pre.*"),  # their spelling
    same("vision_model.post_layernorm.*", "visual.ln_post.*"),
    transposed("visual_projection.weight", "visual.proj"),
    *block_rules("vision_model.encoder.layers", "visual.transformer.resblocks"),
)
KEYS = KeyMap(
    (
        *VISUAL_RULES,
        same("text_model.embeddings.token_embedding.weight", "token_embedding.weight"),
        same("text_model.embeddings.position_embedding.weight", "positional_embedding"),
        same("text_model.final_layer_norm.*", "ln_final.*"),
        transposed("text_projection.weight", "text_projection"),
        *block_rules("text_model.encoder.layers", "transformer.resblocks"),
        same("logit_scale", "logit_scale"),
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
    """The format of transformers' CLIP folders."""

    name = "transformers CLIP"

    def recognises(self, state_dict: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> bool:
        """By `model_type`, or by the names of both towers."""
        if config is not None and "model_type" in config:
            return config["model_type"] in ("clip", "metaclip_2")
        names = ("vision_model.embeddings.class_embedding", "text_model.embeddings.token_embedding.weight")
        return "visual_projection.weight" in state_dict and all(name in state_dict for name in names)

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
        pixels = write_pixels(
            model.preprocess_cfg or PreprocessCfg(config["vision_config"]["image_size"]), "CLIP"
        )
        return Published(KEYS.write(model.state_dict), config, pixels)


def read_config(config: Mapping[str, Any]) -> ModelCfg:
    """`config.json` to our configuration."""
    vision = part_of(config, "vision_config", VISION_DEFAULTS)
    text = part_of(config, "text_config", TEXT_DEFAULTS)
    quick_gelu, act_kwargs = activation(text["hidden_act"], "the text tower")
    vision_cfg, visual_quick_gelu = read_vision(vision)
    if quick_gelu != visual_quick_gelu:
        raise ConfigError(
            f"the text tower has {text['hidden_act']}, the visual tower {vision['hidden_act']}; "
            "QuickGELU is for both towers or for none here"
        )
    eos, vocab_size = text["eos_token_id"], text["vocab_size"]
    # an end of text that has the greatest of all ids is where the greatest id comes first
    at_greatest = eos == vocab_size - 1 or (eos == LEGACY_EOS and config.get("model_type") != "metaclip_2")
    return ModelCfg(
        embed_dim=checked(config.get("projection_dim", 512), 512, "projection_dim"),
        vision_cfg=vision_cfg,
        text_cfg=CLIPTextCfg(
            context_length=text["max_position_embeddings"],
            vocab_size=vocab_size,
            hf_tokenizer_name=None if vocab_size == CLIP_VOCABULARY else BESIDE,
            width=text["hidden_size"],
            heads=text["num_attention_heads"],
            layers=text["num_hidden_layers"],
            mlp_ratio=mlp_ratio(text["intermediate_size"], text["hidden_size"]),
            pool_type="argmax" if at_greatest else "eos",
            eos_id=CLIPTextCfg.eos_id if at_greatest else eos,
            act_kwargs=act_kwargs,
            norm_kwargs=norm_kwargs(text["layer_norm_eps"]),
        ),
        quick_gelu=quick_gelu,
        init_logit_scale=read_logit_scale(config),
    )


def read_vision(vision: Mapping[str, Any]) -> tuple[CLIPVisionCfg, bool]:
    """`vision_config` to our configuration of the visual tower, and whether it has QuickGELU."""
    quick_gelu, act_kwargs = activation(vision["hidden_act"], "the visual tower")
    if vision["num_channels"] != 3:
        raise ConfigError(f"the visual tower takes {vision['num_channels']} channels; 3 are computed here")
    cfg = CLIPVisionCfg(
        layers=vision["num_hidden_layers"],
        width=vision["hidden_size"],
        head_width=vision["hidden_size"] // vision["num_attention_heads"],
        mlp_ratio=mlp_ratio(vision["intermediate_size"], vision["hidden_size"]),
        patch_size=square(vision["patch_size"], "patch_size"),
        image_size=square(vision["image_size"], "image_size"),
        act_kwargs=act_kwargs,
        norm_kwargs=norm_kwargs(vision["layer_norm_eps"]),
    )
    return cfg, quick_gelu


def read_logit_scale(config: Mapping[str, Any]) -> float:
    """The temperature at the start of training, a logarithm; transformers has ours, cut to four digits."""
    value = number(config.get("logit_scale_init_value", 2.6592), "logit_scale_init_value")
    return INIT_LOGIT_SCALE if value == 2.6592 else value


def write_config(cfg: ModelCfg) -> dict[str, Any]:
    """Our configuration to `config.json`.

    Raises:
        ConfigError: for what this layout has no place for.
    """
    no_captioner(cfg, FORM)
    text = cfg.text_cfg
    vision = write_vision(cfg.vision_cfg, cfg.quick_gelu, FORM)
    if cfg.custom_text:
        raise ConfigError(
            f"{FORM} has its text tower beside the visual one, this model in a module of its own"
        )
    if cfg.init_logit_bias is not None:
        raise ConfigError(f"{FORM} has no logit_bias")
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
    plain(text, (*own, *TOKENIZER_FACTS, "pool_type", "eos_id", "pad_id"), FORM)
    if text.pool_type not in KINDS:
        raise ConfigError(f"{FORM} pools a caption at its end, this model has pool_type {text.pool_type!r}")
    at_clips_end = (
        text.pool_type == "eos" and text.eos_id == CLIP_VOCABULARY - 1
    )  # with tokens added behind it
    model_type, model_class = KINDS["argmax" if at_clips_end else text.pool_type]
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
            "hidden_act": activation_name(cfg.quick_gelu, text.act_kwargs),
            "layer_norm_eps": norm_eps(text.norm_kwargs),
            "eos_token_id": _end_of_text(text),
        },
        "vision_config": {"model_type": f"{model_type}_vision_model", "projection_dim": cfg.embed_dim}
        | vision,
        **write_tokenizer_facts(text),
    }


def write_vision(cfg: CLIPVisionCfg, quick_gelu: bool, form: str) -> dict[str, Any]:
    """Our configuration of a plain vision transformer to `vision_config`."""
    if not isinstance(cfg.layers, int):
        raise ConfigError(f"{form} has vision transformers only, this model a ResNet")
    if cfg.timm_model_name:
        raise ConfigError(
            f"{form} has plain vision transformers only, this model timm's {cfg.timm_model_name}"
        )
    numbers = ("layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size")
    plain(cfg, (*numbers, "act_kwargs", "norm_kwargs", "patch_dropout", "output_tokens"), form)
    return {
        "hidden_size": cfg.width,
        "intermediate_size": int(cfg.width * cfg.mlp_ratio),
        "num_hidden_layers": cfg.layers,
        "num_attention_heads": cfg.width // cfg.head_width,
        "num_channels": 3,
        "image_size": square(cfg.image_size, "image_size"),
        "patch_size": square(cfg.patch_size, "patch_size"),
        "hidden_act": activation_name(quick_gelu, cfg.act_kwargs),
        "layer_norm_eps": norm_eps(cfg.norm_kwargs),
    }


def _end_of_text(text: CLIPTextCfg) -> int:
    """Which token transformers pools a caption at, in its spelling."""
    if text.pool_type == "eos":
        return text.eos_id
    return CLIP_VOCABULARY - 1 if text.vocab_size == CLIP_VOCABULARY else LEGACY_EOS
