"""OpenAI's state dicts: their names are ours, and three integers are stored with the weights.

`clip.model.build_model` infers the architecture from the shapes, and assumes QuickGELU, heads of width 64 and MLPs of
four times the width; `clip.load` always uses OpenAI's preprocessing. Models that differ from this are not written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from oneclip.checkpoint.formats.base import ForeignCheckpoint, NativeCheckpoint
from oneclip.checkpoint.resolve.infer_openai import infer_openai_config, looks_like_openai
from oneclip.config import ModelCfg, PreprocessCfg
from oneclip.errors import CheckpointError, ConfigError

FORM = "OpenAI's format"
NUMBERS = ("input_resolution", "context_length", "vocab_size")
VOCABULARY = 49408  # size of the vocabulary of `clip.tokenize`
# Fields that do not change what is computed, or that cannot differ if the shapes are equal.
_IGNORED_FIELDS = {
    "vision_cfg": ("patch_dropout", "patch_size"),
    "text_cfg": ("pad_id", "eos_id", "output_tokens"),
    "": ("init_logit_scale",),
}


class OpenAI:
    """Format of OpenAI's state dicts."""

    name = "OpenAI"

    def matches(self, state_dict: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> bool:
        """Match the three integers, which no other program stores."""
        return (
            config is None and looks_like_openai(state_dict) and all(name in state_dict for name in NUMBERS)
        )

    def read(self, theirs: ForeignCheckpoint) -> NativeCheckpoint:
        """Remove the integers; see `CheckpointFormat.read`."""
        tensors = {name: tensor for name, tensor in theirs.state_dict.items() if name not in NUMBERS}
        cfg = infer_openai_config(tensors)
        return NativeCheckpoint(tensors, cfg, PreprocessCfg(size=cfg.vision_cfg.image_size))

    def write(self, model: NativeCheckpoint) -> ForeignCheckpoint:
        """Add the integers; see `CheckpointFormat.write`."""
        cfg = model.require_cfg(FORM)
        check_fits(cfg, model.state_dict, model.preprocess_cfg)
        text = cfg.text_cfg
        values = (cfg.vision_cfg.image_size, text.context_length, text.vocab_size)
        numbers = {name: torch.tensor(value) for name, value in zip(NUMBERS, values, strict=True)}
        return ForeignCheckpoint(numbers | dict(model.state_dict))


def check_fits(cfg: ModelCfg, state_dict: Mapping[str, Tensor], preprocess_cfg: PreprocessCfg | None) -> None:
    """Raise ConfigError unless OpenAI's programs would compute the same with these weights."""
    if not cfg.quick_gelu:
        raise ConfigError(
            f"{FORM} requires QuickGELU, and this model has GELU: OpenAI's programs would compute wrong numbers"
        )
    try:
        inferred = infer_openai_config(state_dict)
    except CheckpointError as error:
        raise ConfigError(f"{FORM} supports only plain vision transformers and ResNets: {error}") from error
    unlike = _differences(_relevant_fields(cfg), _relevant_fields(inferred))
    if unlike:
        raise ConfigError(f"{FORM} cannot store {', '.join(unlike)}: OpenAI's programs would ignore it")
    if cfg.text_cfg.vocab_size != VOCABULARY:
        raise ConfigError(
            f"{FORM} requires {VOCABULARY} tokens, and this model has {cfg.text_cfg.vocab_size}"
        )
    expected = PreprocessCfg(size=inferred.vision_cfg.image_size)
    unlike = _differences((preprocess_cfg or expected).to_dict(), expected.to_dict())
    if unlike:
        raise ConfigError(f"OpenAI's preprocessing is fixed, and this model's differs in {', '.join(unlike)}")


def _relevant_fields(cfg: ModelCfg) -> dict[str, Any]:
    """Return the fields of a configuration that must be equal."""
    image_size = cfg.vision_cfg.image_size
    if isinstance(image_size, tuple | list) and len(set(image_size)) == 1:
        cfg = replace(cfg, vision_cfg=replace(cfg.vision_cfg, image_size=image_size[0]))
    values = {key: value for key, value in cfg.to_dict().items() if key not in _IGNORED_FIELDS[""]}
    for part in ("vision_cfg", "text_cfg"):
        values[part] = {key: value for key, value in values[part].items() if key not in _IGNORED_FIELDS[part]}
    return values


def _differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], prefix: str = "") -> list[str]:
    """List the fields that differ, as `name=value`."""
    found: list[str] = []
    for key in [*ours, *(key for key in theirs if key not in ours)]:
        mine, other = ours.get(key), theirs.get(key)
        if isinstance(mine, Mapping) and isinstance(other, Mapping):
            found += _differences(mine, other, f"{key}.")
        elif mine != other:
            found.append(f"{prefix}{key}={mine!r}")
    return found
