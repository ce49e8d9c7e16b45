"""Captions of preprocessed images, written by a model with a decoder.

Shapes: B images, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from oneclip.errors import ConfigError
from oneclip.image.prefetch import SkippedImage
from oneclip.model import CoCa
from oneclip.text import Tokenizer


class CaptionedImages(NamedTuple):
    """Captions of the images that could be read, and the other images with their errors.

    Attributes:
        captions: one for each index in `kept`.
        kept: for each caption, the index of its image in the caller's list.
        skipped: the other images, each with `index`, `name` and `error`.
    """

    captions: list[str]
    kept: list[int]
    skipped: list[SkippedImage]


class Captioner:
    """CoCa model with its tokenizer, which determines the ids of start, end and padding.

    Args:
        model: a CoCa.
        tokenizer: of the model.
        prompt: the beginning of every caption; it is part of the result.
        name: of the model in messages.
        search: arguments of `CoCa.generate`.

    Raises:
        ConfigError: if the model has no decoder, or the tokenizer adds no start and end.
    """

    def __init__(
        self, model: nn.Module, tokenizer: Tokenizer, prompt: str, name: str, search: Mapping[str, Any]
    ) -> None:
        if not isinstance(model, CoCa):
            raise ConfigError(
                f"{name} has no decoder, so it cannot write captions; load a CoCa, such as "
                "coca_ViT-L-14:mscoco_finetuned_laion2b_s13b_b90k"
            )
        special = [token for token in tokenizer("")[0].tolist() if token != tokenizer.pad_token_id]
        if len(special) != 2:
            raise ConfigError(f"the tokenizer of {name} adds no start and end, so it cannot write captions")
        start, self.end = special
        self.model, self.tokenizer = model, tokenizer
        self.prompt_ids = [start, *tokenizer.encode(prompt)]
        self.search: dict[str, Any] = {
            "sot_token_id": start,
            "eos_token_id": self.end,
            "pad_token_id": tokenizer.pad_token_id,
            **search,
        }

    def write(self, pixels: Tensor) -> list[str]:
        """Write captions of (B, 3, H, W), on the model's device and in its precision."""
        prompt = torch.tensor([self.prompt_ids], device=pixels.device)
        rows = self.model.generate(pixels, prompt, **self.search).tolist()
        return [self.tokenizer.decode(self._without_ends(row)).strip() for row in rows]

    def _without_ends(self, ids: list[int]) -> list[int]:
        return ids[1 : ids.index(self.end)] if self.end in ids else ids[1:]
