"""Placement of a model's input in the image, against the pixels that preprocessing really keeps."""

import numpy as np
import pytest
from PIL import Image

from oneclip.config import PreprocessCfg
from oneclip.explain.placement import Placement
from oneclip.image import Preprocess

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "interpolation": "bilinear"}


def gradient(height: int, width: int) -> Image.Image:
    """Make an image whose red is its x and whose green is its y, in shares of 255."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width)
    pixels[..., 1] = np.linspace(0, 255, height)[:, None]
    return Image.fromarray(pixels)


@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("size", [(60, 100), (100, 60), (90, 90), (33, 250)])
def test_positions_of_the_input_are_those_that_preprocessing_shows(mode: str, size: tuple[int, int]) -> None:
    cfg = PreprocessCfg(size=48, resize_mode=mode, fill_color=0, **PLAIN)
    pixels = Preprocess(cfg)(gradient(*size)).numpy()
    placement = Placement.of_preprocess(cfg, *size)
    for axis, channel in ((placement.columns, 0), (placement.rows, 1)):
        for position in (12, 24, 36):
            expected = axis.to_image(position)
            if not 2 < expected < axis.pixels - 2:
                continue  # padding
            line = pixels[channel, 24] if channel == 0 else pixels[channel, :, 24]
            found = (line[position - 1] + line[position]) / 2 * axis.pixels
            assert found == pytest.approx(expected, abs=1.5)


def test_what_the_crop_removes_is_nan() -> None:
    placement = Placement.of_preprocess(PreprocessCfg(size=48), 60, 100)
    values = placement.resample(np.ones((2, 4, 4), np.float32))
    assert values.shape == (2, 60, 100)
    assert np.isnan(values[:, :, :20]).all()
    assert np.isnan(values[:, :, 80:]).all()
    assert (values[:, :, 21:79] == 1).all()


def test_a_padded_image_has_no_nan() -> None:
    placement = Placement.of_preprocess(PreprocessCfg(size=48, resize_mode="longest"), 60, 100)
    assert np.isfinite(placement.resample(np.ones((1, 4, 4), np.float32))).all()
