"""Modules that are exported: a tower with normalized output, and inputs to export it with.

Shapes: B batch, (H, W) pixels, L tokens, D joint embedding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneclip.encoder import Encoder
from oneclip.errors import ConfigError
from oneclip.image.uint8 import NormalizeUInt8, UInt8Preprocess

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


def image_tower(encoder: Encoder, *, uint8_input: bool = False) -> tuple[ExportedImageTower, Tensor]:
    """Make the image tower of an encoder, and an input (2, 3, H, W) to export it with.

    Raises:
        ConfigError: if images cannot be normalized inside of the tower.
    """
    height, width = encoder.image_size
    if not uint8_input:
        return ExportedImageTower(encoder.model), torch.zeros(2, 3, height, width)
    steps = UInt8Preprocess.of(encoder.preprocess)
    if steps is None:
        raise ConfigError("the preprocessing was edited, so the tower cannot normalize bytes itself")
    normalize = NormalizeUInt8(steps.normalize, torch.device("cpu"))
    return ExportedImageTower(encoder.model, normalize), torch.zeros(2, 3, height, width, dtype=torch.uint8)


def text_tower(encoder: Encoder) -> tuple[ExportedTextTower, Tensor]:
    """Make the text tower of an encoder, and token ids (2, L) to export it with."""
    ids = encoder.tokenizer(["a photo of a cat on a mat", "a dog"], encoder.context_length)
    return ExportedTextTower(encoder.model), ids


def has_dynamic_length(encoder: Encoder) -> bool:
    """Return whether a text may be cut after its last token without a change of its embedding."""
    return encoder.model.text_pooling().may_crop_padding
