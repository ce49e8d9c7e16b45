"""Ways in which models are published, a file each: names of theirs to names of ours, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from oneclip.checkpoint.formats.base import Converted, Format, Published
from oneclip.checkpoint.formats.big_vision import BigVision
from oneclip.checkpoint.formats.keymap import KeyMap, Rule, joined, reshaped, same, transposed
from oneclip.checkpoint.formats.longclip import LongCLIP
from oneclip.checkpoint.formats.mobileclip import MobileCLIP
from oneclip.checkpoint.formats.openai import OpenAI
from oneclip.checkpoint.formats.transformers_chinese_clip import TransformersChineseCLIP
from oneclip.checkpoint.formats.transformers_clip import TransformersCLIP
from oneclip.checkpoint.formats.transformers_siglip import TransformersSigLIP

__all__ = [
    "FORMATS",
    "Converted",
    "Format",
    "KeyMap",
    "OpenAI",
    "Published",
    "Rule",
    "TransformersCLIP",
    "TransformersChineseCLIP",
    "TransformersSigLIP",
    "joined",
    "recognise",
    "reshaped",
    "same",
    "transposed",
]

FORMATS: tuple[Format, ...] = (
    TransformersCLIP(),
    TransformersSigLIP("siglip"),
    TransformersSigLIP("siglip2"),
    TransformersChineseCLIP(),
    LongCLIP(),
    OpenAI(),
    BigVision(),
    MobileCLIP(),
)
"""All formats but our own, which needs no translation. The first that recognises a checkpoint reads it."""


def recognise(state_dict: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> Format | None:
    """The format of a checkpoint whose names are not ours; None if it is of none."""
    return next((f for f in FORMATS if f.recognises(state_dict, config)), None)
