"""A model in training that knows colours: pictures by their mean colour, captions by the colour that they name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from oneclip.config import PreprocessCfg
from oneclip.evaluate import OfModule
from oneclip.image import Preprocess

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


class ByColour(nn.Module):
    """One axis for each colour; a caption without one of them is like no picture."""

    def __init__(self, bias: float | None = None) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(2.0))
        self.logit_bias = None if bias is None else nn.Parameter(torch.tensor(bias))

    def encode_image(self, image: Tensor) -> Tensor:
        return image.mean((2, 3))

    def encode_text(self, text: Tensor) -> Tensor:
        return nn.functional.one_hot(text[:, 0] - 1, 4)[:, :3].float() - 0.3


def tokenize(captions: Sequence[str]) -> Tensor:
    """The number of the first colour that a caption names, else 4."""
    names = list(COLOURS)
    return torch.tensor([[next((i + 1 for i, n in enumerate(names) if n in text), 4)] for text in captions])


def subject(model: nn.Module | None = None, **options: object) -> OfModule:
    """The model as an evaluation takes it."""
    return OfModule(model or ByColour(), Preprocess(PreprocessCfg(size=8)), tokenize, **options)


def paint(path: Path, colour: str) -> Path:
    """A picture of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (10, 10), COLOURS[colour]).save(path)
    return path
