"""Model for tests that embeds an image by its mean colour, and a text by the colour it names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from oneclip.config import PreprocessCfg
from oneclip.evaluate import ModuleAdapter
from oneclip.image import Preprocess

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


class ByColour(nn.Module):
    """Model with one axis per colour; a text without a colour matches no image."""

    def __init__(self, bias: float | None = None) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(2.0))
        self.logit_bias = None if bias is None else nn.Parameter(torch.tensor(bias))

    def encode_image(self, image: Tensor) -> Tensor:
        return image.mean((2, 3))

    def encode_text(self, text: Tensor) -> Tensor:
        return nn.functional.one_hot(text[:, 0] - 1, 4)[:, :3].float() - 0.3


def tokenize(texts: Sequence[str]) -> Tensor:
    """Return the number of the first colour in each text, or 4."""
    names = list(COLOURS)
    return torch.tensor([[next((i + 1 for i, n in enumerate(names) if n in text), 4)] for text in texts])


def extractor(model: nn.Module | None = None, **options: object) -> ModuleAdapter:
    """Wrap the model for an evaluation."""
    return ModuleAdapter(model or ByColour(), Preprocess(PreprocessCfg(size=8)), tokenize, **options)


def paint(path: Path, colour: str) -> Path:
    """Write an image of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (10, 10), COLOURS[colour]).save(path)
    return path
