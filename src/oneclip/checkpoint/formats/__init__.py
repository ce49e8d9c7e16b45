"""Published checkpoint formats, one file per format: their tensor names to ours, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from oneclip.checkpoint.formats.base import CheckpointFormat, ForeignCheckpoint, NativeCheckpoint
from oneclip.checkpoint.formats.big_vision import BigVision
from oneclip.checkpoint.formats.keymap import KeyMap, Rule, concatenated, renamed, reshaped, transposed
from oneclip.checkpoint.formats.longclip import LongCLIP
from oneclip.checkpoint.formats.mobileclip import MobileCLIP
from oneclip.checkpoint.formats.openai import OpenAI
from oneclip.checkpoint.formats.transformers_chinese_clip import TransformersChineseCLIP
from oneclip.checkpoint.formats.transformers_clip import TransformersCLIP
from oneclip.checkpoint.formats.transformers_siglip import TransformersSigLIP

__all__ = [
    "FORMATS",
    "CheckpointFormat",
    "ForeignCheckpoint",
    "KeyMap",
    "NativeCheckpoint",
    "OpenAI",
    "Rule",
    "TransformersCLIP",
    "TransformersChineseCLIP",
    "TransformersSigLIP",
    "concatenated",
    "detect_format",
    "renamed",
    "reshaped",
    "transposed",
]

FORMATS: tuple[CheckpointFormat, ...] = (
    TransformersCLIP(),
    TransformersSigLIP("siglip"),
    TransformersSigLIP("siglip2"),
    TransformersChineseCLIP(),
    LongCLIP(),
    OpenAI(),
    BigVision(),
    MobileCLIP(),
)
"""All formats except our own, which needs no conversion. The first one that matches a checkpoint reads it."""


def detect_format(
    state_dict: Mapping[str, Tensor], config: Mapping[str, Any] | None = None
) -> CheckpointFormat | None:
    """Find the format of a checkpoint; None if it has our own names or an unknown format."""
    return next((f for f in FORMATS if f.matches(state_dict, config)), None)
