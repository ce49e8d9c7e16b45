"""Checks of the model and the precision of an encoder."""

from __future__ import annotations

import torch

from oneclip.errors import ConfigError
from oneclip.model import DualEncoder


def check_model(model: object, width: int, name: str) -> None:
    """Raise ConfigError unless this is a model of ours whose embeddings have `width` numbers, like those of `name`."""
    if not isinstance(model, DualEncoder):
        raise ConfigError(
            f"model must be a model of oneclip, open_clip or clip; found a {type(model).__name__}; assign the "
            "model inside a wrapper (model.module of DistributedDataParallel, peft's merge_and_unload())"
        )
    own = getattr(model.visual, "output_dim", width)
    if own != width:
        raise ConfigError(
            f"the embeddings of {name} have {width} numbers, and those of the model assigned {own}: make an "
            "encoder of its own, oneclip.Encoder(model, preprocess, tokenizer, cfg, name=...)"
        )


def check_int8(precision: str, device: torch.device) -> None:
    """Raise ConfigError for int8 on another device than a CPU."""
    if precision == "int8" and device.type != "cpu":
        raise ConfigError(f"int8 runs on a CPU, not on {device}; use bf16 or fp16 there, or device='cpu'")
