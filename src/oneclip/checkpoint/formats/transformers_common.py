"""Parts shared by the formats of transformers: names inside a block, sizes of a tower, activation, tokenizer fields."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from oneclip.checkpoint.formats.keymap import Rule, concatenated, renamed
from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg
from oneclip.errors import ConfigError
from oneclip.image.transformers_preprocessor import MAX_INT as MAX_INT
from oneclip.image.transformers_preprocessor import check_number as check_number
from oneclip.image.transformers_preprocessor import check_square as check_square
from oneclip.text.factory import TOKENIZER_IN_MODEL_FOLDER

CLIP_VOCABULARY = 49408  # size of CLIP's own vocabulary
TOKENIZER_FIELDS = ("hf_tokenizer_name", "tokenizer_kwargs", "tokenizer_mode")
ONECLIP_KEY = "oneclip"  # key of the fields that transformers does not know; it keeps them unchanged
_EDGES = ("image_size", "patch_size")
DEFAULT_EPS = 1e-5  # of our layer norms without `norm_kwargs`

# transformers' name of an activation to (quick_gelu, act_kwargs); other activations are not supported.
ACTIVATIONS: dict[str, tuple[bool, dict[str, Any] | None]] = {
    "quick_gelu": (True, None),
    "gelu": (False, None),
    "gelu_pytorch_tanh": (False, {"approximate": "tanh"}),
    "gelu_new": (False, {"approximate": "tanh"}),
}


def block_rules(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Make the rules for the blocks of a tower; `theirs` ends in `layers`, `ours` in `resblocks`."""
    queries_keys_values = [f"{theirs}.*.self_attn.{part}_proj" for part in "qkv"]
    return (
        *(
            concatenated([f"{part}.{kind}" for part in queries_keys_values], f"{ours}.*.attn.in_proj_{kind}")
            for kind in ("weight", "bias")
        ),
        renamed(f"{theirs}.*.self_attn.out_proj.*", f"{ours}.*.attn.out_proj.*"),
        renamed(f"{theirs}.*.layer_norm1.*", f"{ours}.*.ln_1.*"),
        renamed(f"{theirs}.*.layer_norm2.*", f"{ours}.*.ln_2.*"),
        renamed(f"{theirs}.*.mlp.fc1.*", f"{ours}.*.mlp.c_fc.*"),
        renamed(f"{theirs}.*.mlp.fc2.*", f"{ours}.*.mlp.c_proj.*"),
    )


def read_tower(config: Mapping[str, Any], tower: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Read the sizes of one tower, `text_config` or `vision_config`, with transformers' defaults.

    Files from before 2022 repeat a tower as `text_config_dict`, which then has priority.

    Args:
        config: content of `config.json`.
        tower: "text_config" or "vision_config".
        defaults: the fields to read, and their defaults.

    Raises:
        ConfigError: for a value with another type than its default.
    """
    stored = config.get(f"{tower}_dict") or config.get(tower) or {}
    if not isinstance(stored, Mapping):
        raise ConfigError(f"{tower} of config.json is a {type(stored).__name__}; expected an object")
    numbers = {
        key: check_value(stored[key], default, f"{key} of {tower}")
        if stored.get(key) is not None
        else default
        for key, default in defaults.items()
    }
    width, heads = numbers["hidden_size"], numbers["num_attention_heads"]
    if width % heads:
        raise ConfigError(f"{tower} has width {width}, not a multiple of its {heads} heads")
    return numbers


def check_value(value: Any, default: Any, what: str) -> Any:
    """Check that a value has the type of its default. Sizes of images and patches may be two numbers.

    Args:
        value: value in `config.json`.
        default: a valid value.
        what: name of the value, for messages.

    Raises:
        ConfigError: for a value of another type, or out of range.
    """
    edges = list(value) if isinstance(value, list | tuple) and what.startswith(_EDGES) else [value]
    for edge in edges:
        if isinstance(default, bool) or isinstance(edge, bool):
            fits = isinstance(edge, bool) and isinstance(default, bool)
        elif isinstance(default, int):
            fits = isinstance(edge, int) and (0 if what.startswith("pad") else 1) <= edge <= MAX_INT
        elif isinstance(default, float):
            fits = check_number(edge, what) > 0
        else:
            fits = isinstance(edge, type(default))
        if not fits:
            expected = "a positive integer" if isinstance(default, int) else f"a value such as {default!r}"
            raise ConfigError(f"{what} is {str(value)[:80]!r} in config.json; expected {expected}")
    return value


def write_tokenizer_fields(text: CLIPTextCfg) -> dict[str, Any]:
    """Return the fields of `config.json` that only we read: which tokenizer, and how texts are cleaned.

    A tokenizer in the folder of the model needs no name.
    """
    stored = {
        key: value
        for key in TOKENIZER_FIELDS
        if (value := getattr(text, key)) not in (None, TOKENIZER_IN_MODEL_FOLDER)
    }
    return {ONECLIP_KEY: stored} if stored else {}


def read_tokenizer_fields(cfg: ModelCfg, config: Mapping[str, Any]) -> ModelCfg:
    """Add the fields that `write_tokenizer_fields` stored, if this `config.json` has them."""
    stored = config.get(ONECLIP_KEY)
    if not isinstance(stored, Mapping):
        return cfg
    found = {key: value for key, value in stored.items() if key in TOKENIZER_FIELDS}
    return replace(cfg, text_cfg=replace(cfg.text_cfg, **found))


def read_activation(name: object, where: str) -> tuple[bool, dict[str, Any] | None]:
    """Convert `hidden_act` to (quick_gelu, act_kwargs).

    Raises:
        ConfigError: for an activation that is not supported here.
    """
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ConfigError(f"hidden_act of {where} is {name!r}; supported: {', '.join(sorted(ACTIVATIONS))}")
    return ACTIVATIONS[name]


def write_activation(quick_gelu: bool, act_kwargs: Mapping[str, Any] | None) -> str:
    """Convert (quick_gelu, act_kwargs) to `hidden_act`.

    Raises:
        ConfigError: for an activation that transformers does not have.
    """
    wanted = (quick_gelu, None if quick_gelu else dict(act_kwargs or {}) or None)
    if wanted == (False, {"approximate": "none"}):
        return "gelu"
    for name, known in ACTIVATIONS.items():
        if known == wanted:
            return name
    raise ConfigError(f"act_kwargs is {act_kwargs}; transformers does not have that activation")


def read_norm_eps(eps: float) -> dict[str, Any] | None:
    """Convert `layer_norm_eps` to `norm_kwargs`."""
    return None if eps == DEFAULT_EPS else {"eps": eps}


def write_norm_eps(kwargs: Mapping[str, Any] | None) -> float:
    """Convert `norm_kwargs` to `layer_norm_eps`."""
    kwargs = kwargs or {}
    if kwargs.keys() - {"eps"}:
        raise ConfigError(f"norm_kwargs is {dict(kwargs)}; the norms of transformers only have an eps")
    return float(kwargs.get("eps", DEFAULT_EPS))


def mlp_ratio(hidden: int, width: int) -> float:
    """Return a ratio with `int(width * ratio) == hidden`; with four digits, as published ones, if possible."""
    short = math.ceil(round(hidden / width * 1e4, 6)) / 1e4
    return short if int(width * short) == hidden else math.nextafter(hidden / width, math.inf)


def require_defaults(cfg: CLIPVisionCfg | CLIPTextCfg, may_differ: tuple[str, ...], form: str) -> None:
    """Raise ConfigError unless all fields except `may_differ` have their defaults, so that `form` can store them."""
    changed = [f"{key}={value!r}" for key, value in cfg.to_dict().items() if key not in may_differ]
    if changed:
        raise ConfigError(f"{form} cannot store {', '.join(changed)} of a {type(cfg).__name__}")


def require_dual_encoder(cfg: ModelCfg, form: str) -> None:
    """Raise ConfigError for a captioner (CoCa), or a vector as temperature, which `form` cannot store."""
    if cfg.multimodal_cfg is not None:
        raise ConfigError(f"{form} cannot store a caption decoder (CoCa): write the model as open_clip")
    if cfg.nonscalar_logit_scale:
        raise ConfigError(f"{form} stores logit_scale as a number, and this model has a vector of one")
