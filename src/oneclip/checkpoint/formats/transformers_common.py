"""What transformers' dual encoders share: the names in a block, the numbers of a tower, the activation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from oneclip.checkpoint.formats.keymap import Rule, joined, same
from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg
from oneclip.errors import ConfigError
from oneclip.text.factory import BESIDE

CLIP_VOCABULARY = 49408  # tokens of the vocabulary in this package
TOKENIZER_FACTS = ("hf_tokenizer_name", "tokenizer_kwargs", "tokenizer_mode")
OURS = "oneclip"  # the key of what transformers has no field for, and keeps as it is
LARGEST = 2**31 - 1  # of the whole numbers that a configuration may hold
_EDGES = ("image_size", "patch_size")
DEFAULT_EPS = 1e-5  # of our layer norms, when `norm_kwargs` says nothing

# transformers' name of an activation to (quick_gelu, act_kwargs); what is not here cannot be computed
ACTIVATIONS: dict[str, tuple[bool, dict[str, Any] | None]] = {
    "quick_gelu": (True, None),
    "gelu": (False, None),
    "gelu_pytorch_tanh": (False, {"approximate": "tanh"}),
    "gelu_new": (False, {"approximate": "tanh"}),
}


def block_rules(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Names in the blocks of a tower: `theirs` ends in `layers`, `ours` in `resblocks`."""
    queries_keys_values = [f"{theirs}.*.self_attn.{part}_proj" for part in "qkv"]
    return (
        *(
            joined([f"{part}.{kind}" for part in queries_keys_values], f"{ours}.*.attn.in_proj_{kind}")
            for kind in ("weight", "bias")
        ),
        same(f"{theirs}.*.self_attn.out_proj.*", f"{ours}.*.attn.out_proj.*"),
        same(f"{theirs}.*.layer_norm1.*", f"{ours}.*.ln_1.*"),
        same(f"{theirs}.*.layer_norm2.*", f"{ours}.*.ln_2.*"),
        same(f"{theirs}.*.mlp.fc1.*", f"{ours}.*.mlp.c_fc.*"),
        same(f"{theirs}.*.mlp.fc2.*", f"{ours}.*.mlp.c_proj.*"),
    )


def part_of(config: Mapping[str, Any], tower: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of one tower: `text_config` or `vision_config`, over transformers' defaults.

    Files of before 2022 repeat a tower as `text_config_dict`, which then counts.

    Raises:
        ConfigError: for a value that is not of the kind its default is of.
    """
    said = config.get(f"{tower}_dict") or config.get(tower) or {}
    if not isinstance(said, Mapping):
        raise ConfigError(f"{tower} of config.json is a {type(said).__name__} where an object was expected")
    numbers = {
        key: checked(said[key], default, f"{key} of {tower}") if said.get(key) is not None else default
        for key, default in defaults.items()
    }
    width, heads = numbers["hidden_size"], numbers["num_attention_heads"]
    if width % heads:
        raise ConfigError(f"{tower} is {width} wide, which its {heads} heads do not divide")
    return numbers


def checked(value: Any, default: Any, what: str) -> Any:
    """A value of a configuration, if it is of the kind that its default is of; lengths of edges may be two."""
    edges = list(value) if isinstance(value, list | tuple) and what.startswith(_EDGES) else [value]
    for edge in edges:
        if isinstance(default, bool) or isinstance(edge, bool):
            fits = isinstance(edge, bool) and isinstance(default, bool)
        elif isinstance(default, int):
            fits = isinstance(edge, int) and (0 if what.startswith("pad") else 1) <= edge <= LARGEST
        elif isinstance(default, float):
            fits = number(edge, what) > 0
        else:
            fits = isinstance(edge, type(default))
        if not fits:
            expected = "a whole number above 0" if isinstance(default, int) else f"such as {default!r}"
            raise ConfigError(f"{what} is {str(value)[:80]!r} in config.json; {expected} was expected")
    return value


def number(value: Any, what: str) -> float:
    """A value of a JSON file, if it is a number of ordinary size."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < LARGEST:
        raise ConfigError(f"{what} is {str(value)[:80]!r}; a number was expected")
    return float(value)


def write_tokenizer_facts(text: CLIPTextCfg) -> dict[str, Any]:
    """What `config.json` says for us alone: which tokenizer, and how captions are cleaned for it.

    One that lies beside the model is found there.
    """
    said = {key: value for key in TOKENIZER_FACTS if (value := getattr(text, key)) not in (None, BESIDE)}
    return {OURS: said} if said else {}


def read_tokenizer_facts(cfg: ModelCfg, config: Mapping[str, Any]) -> ModelCfg:
    """A configuration with what we wrote so, if this `config.json` is ours."""
    said = config.get(OURS)
    if not isinstance(said, Mapping):
        return cfg
    found = {key: value for key, value in said.items() if key in TOKENIZER_FACTS}
    return replace(cfg, text_cfg=replace(cfg.text_cfg, **found))


def activation(name: object, where: str) -> tuple[bool, dict[str, Any] | None]:
    """`hidden_act` to (quick_gelu, act_kwargs).

    Raises:
        ConfigError: for one that is not computed here.
    """
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ConfigError(
            f"hidden_act of {where} is {name!r}; towers here have {', '.join(sorted(ACTIVATIONS))}"
        )
    return ACTIVATIONS[name]


def activation_name(quick_gelu: bool, act_kwargs: Mapping[str, Any] | None) -> str:
    """(quick_gelu, act_kwargs) to `hidden_act`.

    Raises:
        ConfigError: for one that transformers has no name for.
    """
    wanted = (quick_gelu, None if quick_gelu else dict(act_kwargs or {}) or None)
    if wanted == (False, {"approximate": "none"}):
        return "gelu"
    for name, known in ACTIVATIONS.items():
        if known == wanted:
            return name
    raise ConfigError(f"act_kwargs {act_kwargs}: transformers has no name for that activation")


def norm_kwargs(eps: float) -> dict[str, Any] | None:
    """`layer_norm_eps` to `norm_kwargs`."""
    return None if eps == DEFAULT_EPS else {"eps": eps}


def norm_eps(kwargs: Mapping[str, Any] | None) -> float:
    """`norm_kwargs` to `layer_norm_eps`."""
    kwargs = kwargs or {}
    if kwargs.keys() - {"eps"}:
        raise ConfigError(f"norm_kwargs {dict(kwargs)}: transformers' norms take an eps and nothing else")
    return float(kwargs.get("eps", DEFAULT_EPS))


def mlp_ratio(hidden: int, width: int) -> float:
    """A ratio that gives `hidden` when `width` times it is truncated: of four digits, as published ones, if it can."""
    short = math.ceil(round(hidden / width * 1e4, 6)) / 1e4
    return short if int(width * short) == hidden else math.nextafter(hidden / width, math.inf)


def plain(cfg: CLIPVisionCfg | CLIPTextCfg, may_differ: tuple[str, ...], form: str) -> None:
    """Raise ConfigError unless all fields but those named have their defaults, so that a plain form can hold it."""
    unlike = [f"{key}={value!r}" for key, value in cfg.to_dict().items() if key not in may_differ]
    if unlike:
        raise ConfigError(f"{form} has no place for {', '.join(unlike)} of a {type(cfg).__name__}")


def square(value: Any, what: str) -> int:
    """A number, or two that are the same."""
    edges = set(value) if isinstance(value, list | tuple) else {value}
    if len(edges) != 1 or not isinstance(edge := edges.pop(), int):
        raise ConfigError(f"{what} is {value!r}; transformers' towers take squares")
    return edge


def no_captioner(cfg: ModelCfg, form: str) -> None:
    """Raise ConfigError for what no dual encoder of another package has."""
    if cfg.multimodal_cfg is not None:
        raise ConfigError(f"{form} has no place for a captioning decoder (CoCa): write it as open_clip")
    if cfg.nonscalar_logit_scale:
        raise ConfigError(f"{form} keeps logit_scale as a number, this model as a vector of one")
