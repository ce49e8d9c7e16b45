"""Transparent images over a background colour, for models that were trained that way."""

import numpy as np
import pytest
import torch
from PIL import Image

from oneclip.config import PreprocessCfg
from oneclip.image import Augment, FastPreprocess, Preprocess

WHITE = (255, 255, 255)


def clear_palette() -> Image.Image:
    image = Image.new("P", (8, 8), 0)
    image.info["transparency"] = 0
    return image


@pytest.mark.parametrize(
    "clear",
    [Image.new("RGBA", (8, 8), (0, 0, 0, 0)), Image.new("LA", (8, 8), (0, 0)), clear_palette()],
    ids=["RGBA", "LA", "P"],
)
def test_transparent_pixels_show_the_background(clear: Image.Image) -> None:
    preprocess = Preprocess(PreprocessCfg(size=8, background=WHITE))
    torch.testing.assert_close(preprocess(clear), preprocess(Image.new("RGB", (8, 8), WHITE)))


def test_half_transparent_pixels_mix_with_the_background() -> None:
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    preprocess = Preprocess(PreprocessCfg(size=8, background=WHITE))
    torch.testing.assert_close(preprocess(half), preprocess(Image.new("RGB", (8, 8), (127, 127, 127))))


@pytest.mark.parametrize("kind", [Preprocess, FastPreprocess, Augment])
@pytest.mark.parametrize("mode", ["1", "P"])
def test_images_become_rgb_before_they_are_resized(kind: type, mode: str) -> None:
    """A resize picks single pixels of such images: it would keep or lose all of the thin lines."""
    lines = Image.fromarray(np.tile(np.array([0, 255], np.uint8), (64, 32))).convert(mode)
    cfg = PreprocessCfg(size=8, background=WHITE)
    arguments = {"generator": 0} if kind is Augment else {}
    prepared = kind(cfg)(lines, **arguments)
    assert torch.equal(prepared, kind(cfg)(lines.convert("RGB"), **arguments))
    gray = kind(cfg)(Image.new("RGB", (64, 64), (127, 127, 127)), **arguments)
    assert (prepared - gray).abs().mean() < 0.5  # black and white are 3.7 apart


@pytest.mark.parametrize("mode", ["1", "P"])
def test_without_a_background_pixels_are_picked_as_in_published_pipelines(mode: str) -> None:
    lines = Image.fromarray(np.tile(np.array([0, 255], np.uint8), (64, 32))).convert(mode)
    picked = lines.resize((8, 8), Image.Resampling.BICUBIC).convert("RGB")
    expected = torch.from_numpy(np.array(picked)).permute(2, 0, 1).float().div(255)
    cfg = PreprocessCfg(size=8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    assert torch.equal(Preprocess(cfg)(lines), expected)


def test_opaque_images_do_not_change() -> None:
    image = Image.new("RGB", (8, 8), (10, 20, 30))
    with_background = Preprocess(PreprocessCfg(size=8, background=WHITE))
    assert torch.equal(with_background(image), Preprocess(PreprocessCfg(size=8))(image))
