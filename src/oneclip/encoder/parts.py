"""The three parts of an encoder, checked when they are assigned, and where they may compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeGuard

import torch

from oneclip.config import PreprocessCfg
from oneclip.errors import ConfigError
from oneclip.model import DualEncoder
from oneclip.text import Tokenizer

_TOKENIZER = ("context_length", "vocab_size", "pad_token_id", "encode", "decode")


def check_model(model: object, width: int, name: str) -> None:
    """Raise ConfigError unless this is a model of ours whose embeddings are `width` wide, as those of `name`."""
    if not isinstance(model, DualEncoder):
        raise ConfigError(
            f"encoder.model is a model of oneclip, open_clip or clip; found a {type(model).__name__}: give the "
            "model inside a wrapper (model.module of DistributedDataParallel, peft's merge_and_unload())"
        )
    own = getattr(model.visual, "output_dim", width)
    if own != width:
        raise ConfigError(
            f"the embeddings of {name} have {width} numbers, and those of the model assigned {own}: make an "
            "encoder of its own, oneclip.Encoder(model, preprocess, tokenizer, cfg, name=...)"
        )


def check_preprocess(preprocess: object) -> None:
    """Raise ConfigError unless this can be called."""
    if not callable(preprocess):
        raise ConfigError(
            f"encoder.preprocess is a function of a PIL image; found a {type(preprocess).__name__}: "
            "oneclip.image.Preprocess makes one"
        )


def cfg_of(preprocess: Callable[..., object]) -> PreprocessCfg:
    """What a preprocessing was made from.

    Raises:
        ConfigError: if it does not say.
    """
    cfg = getattr(preprocess, "cfg", None)
    if not isinstance(cfg, PreprocessCfg):
        raise ConfigError(
            f"encoder.preprocess is a {type(preprocess).__name__}, which does not say how it prepares an image; "
            "assign an oneclip.image.Preprocess"
        )
    return cfg


def is_tokenizer(found: object) -> TypeGuard[Tokenizer]:
    """Whether this has all that a `Tokenizer` has."""
    return callable(found) and all(hasattr(found, name) for name in _TOKENIZER)


def check_tokenizer(tokenizer: object) -> None:
    """Raise ConfigError unless this is a tokenizer."""
    if not is_tokenizer(tokenizer):
        raise ConfigError(
            f"encoder.tokenizer is a tokenizer with {', '.join(_TOKENIZER)}; found a {type(tokenizer).__name__}: "
            "oneclip.text has CLIPTokenizer and HFTokenizer"
        )


def check_int8(precision: str, device: torch.device) -> None:
    """Raise ConfigError where int8 is not computed."""
    if precision == "int8" and device.type != "cpu":
        raise ConfigError(
            f"int8 is computed on a CPU, not on {device}: ask for bf16 or fp16 there, or device='cpu'"
        )
