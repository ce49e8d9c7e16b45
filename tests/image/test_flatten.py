"""Transparency over a background colour, for models that were trained that way."""

import pytest
import torch
from PIL import Image

from oneclip.config import PreprocessCfg
from oneclip.image import Preprocess

WHITE = (255, 255, 255)


def clear_palette() -> Image.Image:
    picture = Image.new("P", (8, 8), 0)
    picture.info["transparency"] = 0
    return picture


@pytest.mark.parametrize(
    "clear",
    [Image.new("RGBA", (8, 8), (0, 0, 0, 0)), Image.new("LA", (8, 8), (0, 0)), clear_palette()],
    ids=["RGBA", "LA", "P"],
)
def test_transparent_pixels_show_the_background(clear: Image.Image) -> None:
    preprocess = Preprocess(PreprocessCfg(size=8, background=WHITE))
    torch.testing.assert_close(preprocess(clear), preprocess(Image.new("RGB", (8, 8), WHITE)))


def test_half_transparent_pixels_mix_with_it() -> None:
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    preprocess = Preprocess(PreprocessCfg(size=8, background=WHITE))
    torch.testing.assert_close(preprocess(half), preprocess(Image.new("RGB", (8, 8), (127, 127, 127))))


def test_opaque_pictures_pass_unchanged() -> None:
    picture = Image.new("RGB", (8, 8), (10, 20, 30))
    with_background = Preprocess(PreprocessCfg(size=8, background=WHITE))
    assert torch.equal(with_background(picture), Preprocess(PreprocessCfg(size=8))(picture))
