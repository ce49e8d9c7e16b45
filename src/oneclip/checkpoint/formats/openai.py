"""OpenAI's state dicts to `CLIP`, and back: our names are theirs, and three whole numbers come with the weights.

`clip.model.build_model` reads the architecture off the shapes, and takes it to have QuickGELU, 64-wide heads and MLPs
of four times the width; `clip.load` preprocesses as OpenAI's models were trained. What differs is not written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from oneclip.checkpoint.formats.base import Converted, Published
from oneclip.checkpoint.resolve.infer_openai import infer_openai_config, looks_like_openai
from oneclip.config import ModelCfg, PreprocessCfg
from oneclip.errors import CheckpointError, ConfigError

FORM = "OpenAI's form"
NUMBERS = ("input_resolution", "context_length", "vocab_size")
VOCABULARY = 49408  # tokens that `clip.tokenize` knows
# fields that change nothing in what is computed, or cannot differ where the shapes agree
_FREE = {
    "vision_cfg": ("patch_dropout", "patch_size"),
    "text_cfg": ("pad_id", "eos_id", "output_tokens"),
    "": ("init_logit_scale",),
}


class OpenAI:
    """The format of OpenAI's state dicts."""

    name = "OpenAI"

    def recognises(self, state_dict: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> bool:
        """By the three numbers, which no other program writes."""
        return (
            config is None and looks_like_openai(state_dict) and all(name in state_dict for name in NUMBERS)
        )

    def read(
        self,
        state_dict: Mapping[str, Tensor],
        config: Mapping[str, Any] | None = None,
        preprocessor: Mapping[str, Any] | None = None,
    ) -> Converted:
        """Theirs to ours; see `Format.read`."""
        tensors = {name: tensor for name, tensor in state_dict.items() if name not in NUMBERS}
        cfg = infer_openai_config(tensors)
        return Converted(tensors, cfg, PreprocessCfg(size=cfg.vision_cfg.image_size))

    def write(self, model: Converted) -> Published:
        """Ours to theirs; see `Format.write`."""
        if model.cfg is None:
            raise ConfigError(f"{FORM} needs the configuration of the model")
        check_fits(model.cfg, model.state_dict, model.preprocess_cfg)
        text = model.cfg.text_cfg
        values = (model.cfg.vision_cfg.image_size, text.context_length, text.vocab_size)
        numbers = {name: torch.tensor(value) for name, value in zip(NUMBERS, values, strict=True)}
        return Published(numbers | dict(model.state_dict))


def check_fits(cfg: ModelCfg, state_dict: Mapping[str, Tensor], pixels: PreprocessCfg | None) -> None:
    """Raise ConfigError unless OpenAI's programs would compute the same with these weights."""
    if not cfg.quick_gelu:
        raise ConfigError(
            f"{FORM} has QuickGELU, this model GELU: OpenAI's programs would compute other numbers"
        )
    try:
        theirs = infer_openai_config(state_dict)
    except CheckpointError as error:
        raise ConfigError(f"{FORM} has plain vision transformers and ResNets only: {error}") from error
    unlike = _differences(_plain(cfg), _plain(theirs))
    if unlike:
        raise ConfigError(
            f"{FORM} has no place for {', '.join(unlike)}: OpenAI's programs would not take it into account"
        )
    if cfg.text_cfg.vocab_size != VOCABULARY:
        raise ConfigError(f"{FORM} has {VOCABULARY} tokens, this model {cfg.text_cfg.vocab_size}")
    expected = PreprocessCfg(size=theirs.vision_cfg.image_size)
    unlike = _differences((pixels or expected).to_dict(), expected.to_dict())
    if unlike:
        raise ConfigError(f"OpenAI's preprocessing is fixed, and this model's differs in {', '.join(unlike)}")


def _plain(cfg: ModelCfg) -> dict[str, Any]:
    """A configuration without what is free to differ."""
    image_size = cfg.vision_cfg.image_size
    if isinstance(image_size, tuple | list) and len(set(image_size)) == 1:
        cfg = replace(cfg, vision_cfg=replace(cfg.vision_cfg, image_size=image_size[0]))
    values = {key: value for key, value in cfg.to_dict().items() if key not in _FREE[""]}
    for part in ("vision_cfg", "text_cfg"):
        values[part] = {key: value for key, value in values[part].items() if key not in _FREE[part]}
    return values


def _differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], inside: str = "") -> list[str]:
    """Fields that differ, in words."""
    found: list[str] = []
    for key in [*ours, *(key for key in theirs if key not in ours)]:
        mine, other = ours.get(key), theirs.get(key)
        if isinstance(mine, Mapping) and isinstance(other, Mapping):
            found += _differences(mine, other, f"{key}.")
        elif mine != other:
            found.append(f"{inside}{key}={mine!r}")
    return found
