"""Modules that are exported: a tower with normalized output, and inputs to export it with.

Shapes: B batch, (H, W) pixels, L tokens, D joint embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneclip.encoder import Encoder
from oneclip.errors import ConfigError
from oneclip.image.uint8 import NormalizeUInt8, UInt8Preprocess
from oneclip.runtime.exported_model import Side

IMAGE_INPUT, IMAGE_OUTPUT = "pixel_values", "image_embeds"  # names of transformers and transformers.js
TEXT_INPUT, TEXT_OUTPUT = "input_ids", "text_embeds"


class ExportedImageTower(nn.Module):
    """Image tower with normalized output.

    Args:
        model: in evaluation mode.
        normalize: normalization of bytes; None for inputs that are normalized already.
    """

    def __init__(self, model: Any, normalize: NormalizeUInt8 | None = None) -> None:
        super().__init__()
        self.model, self.normalize = model, normalize

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode (B, 3, H, W) float32, or uint8 with `normalize`, as (B, D) float32 of unit length."""
        if self.normalize is not None:
            pixel_values = self.normalize(pixel_values)
        return F.normalize(self.model.encode_image(pixel_values).float(), dim=-1)


class ExportedTextTower(nn.Module):
    """Text tower with normalized output.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        """Encode (B, L) int64 token ids as (B, D) float32 of unit length."""
        return F.normalize(self.model.encode_text(input_ids).float(), dim=-1)


@dataclass(frozen=True)
class TowerToExport:
    """Tower, and what is needed to export it.

    Attributes:
        module: the tower, with one input and one output.
        example: input of two rows.
        input_name, output_name: in the exported file.
    """

    module: nn.Module
    example: Tensor
    input_name: str
    output_name: str


def exported_tower(encoder: Encoder, side: Side, *, uint8_input: bool = False) -> TowerToExport:
    """Make the image or the text tower of an encoder for an export.

    Raises:
        ConfigError: if images cannot be normalized inside of the tower.
    """
    if side == "text":
        ids = encoder.tokenizer(["a photo of a cat on a mat", "a dog"], encoder.context_length)
        return TowerToExport(ExportedTextTower(encoder.model), ids, TEXT_INPUT, TEXT_OUTPUT)
    normalize, dtype = None, torch.float32
    if uint8_input:
        steps = UInt8Preprocess.of(encoder.preprocess)
        if steps is None:
            raise ConfigError("the preprocessing was edited, so the tower cannot normalize bytes itself")
        normalize, dtype = NormalizeUInt8(steps.normalize, torch.device("cpu")), torch.uint8
    example = torch.zeros(2, 3, *encoder.image_size, dtype=dtype)
    return TowerToExport(ExportedImageTower(encoder.model, normalize), example, IMAGE_INPUT, IMAGE_OUTPUT)


def has_dynamic_length(encoder: Encoder) -> bool:
    """Return whether a text may be cut after its last token without a change of its embedding."""
    return encoder.model.text_pooling().may_crop_padding
