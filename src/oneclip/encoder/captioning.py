"""Preprocessed pictures to captions in words, by a model with a decoder.

Shapes: B pictures, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from oneclip.errors import ConfigError
from oneclip.image.prefetch import Skipped
from oneclip.model import CoCa
from oneclip.text import Tokenizer


class Captioned(NamedTuple):
    """Captions of those of several images that could be read.

    Attributes:
        captions: one for each index in `kept`.
        kept: where those images stand in the input.
        skipped: the others, each with its place, its name and the error.
    """

    captions: list[str]
    kept: list[int]
    skipped: list[Skipped]


class Captioner:
    """A CoCa and its tokenizer, which also says which ids start, end and fill up a text.

    Args:
        model: a CoCa.
        tokenizer: the model's own.
        prompt: what every caption begins with; it is part of the result.
        name: what to call the model in messages.
        search: arguments of `CoCa.generate`.

    Raises:
        ConfigError: if the model has no decoder, or the tokenizer marks no start and end.
    """

    def __init__(
        self, model: nn.Module, tokenizer: Tokenizer, prompt: str, name: str, search: Mapping[str, Any]
    ) -> None:
        if not isinstance(model, CoCa):
            raise ConfigError(
                f"{name} has no decoder: it compares images with texts and cannot write captions; load a CoCa, such as "
                "coca_ViT-L-14:mscoco_finetuned_laion2b_s13b_b90k"
            )
        around = [token for token in tokenizer("")[0].tolist() if token != tokenizer.pad_token_id]
        if len(around) != 2:
            raise ConfigError(
                f"the tokenizer of {name} does not mark where a text starts and ends, so it cannot write captions"
            )
        start, self.end = around
        self.model, self.tokenizer = model, tokenizer
        self.beginning = [start, *tokenizer.encode(prompt)]
        self.search: dict[str, Any] = {
            "sot_token_id": start,
            "eos_token_id": self.end,
            "pad_token_id": tokenizer.pad_token_id,
            **search,
        }

    def write(self, pixels: Tensor) -> list[str]:
        """Captions of (B, 3, H, W), on the model's device and in its precision; without their start and end."""
        beginning = torch.tensor([self.beginning], device=pixels.device)
        ids = self.model.generate(pixels, beginning, **self.search)
        return [self.tokenizer.decode(self._words(row)).strip() for row in ids.tolist()]

    def _words(self, ids: list[int]) -> list[int]:
        """What stands between the start of a text and its end, if it has one."""
        return ids[1 : ids.index(self.end)] if self.end in ids else ids[1:]
