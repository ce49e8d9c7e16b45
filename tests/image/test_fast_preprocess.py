"""`decode="fast"`: smaller decoding, and the distance of its tensors from the exact preprocessing."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from oneclip.config import PreprocessCfg
from oneclip.image import FastPreprocess, Preprocess, open_image

MODES = ("shortest", "longest", "squash")


def smooth(width: int, height: int, seed: int = 0) -> Image.Image:
    """Make an image with soft edges, like a photograph."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image, orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[274] = orientation
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [32, (24, 40)])
@pytest.mark.parametrize("shape", [(90, 70), (40, 61), (33, 32), (20, 30), (32, 32)])
def test_images_up_to_three_times_the_size_differ_only_by_rounding(
    mode: str, size: int | tuple[int, int], shape: tuple[int, int]
) -> None:
    cfg = PreprocessCfg(size=size, resize_mode=mode, mean=(0, 0, 0), std=(1, 1, 1))
    for pixel_mode in ("RGB", "L", "RGBA", "LA"):
        image = smooth(*shape).convert(pixel_mode)
        difference = (FastPreprocess(cfg)(image) - Preprocess(cfg)(image)).abs().max()
        assert difference < 2.01 / 255, pixel_mode  # each of two passes rounds


@pytest.mark.parametrize("pixel_mode", ["1", "P"])
def test_images_whose_pixels_are_picked_do_not_differ(pixel_mode: str) -> None:
    cfg = PreprocessCfg(size=32)
    image = smooth(57, 41).convert(pixel_mode)
    assert torch.equal(FastPreprocess(cfg)(image), Preprocess(cfg)(image))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_large_jpeg_is_shrunk_and_upright(mode: str, orientation: int) -> None:
    cfg = PreprocessCfg(size=(32, 48), resize_mode=mode, mean=(0, 0, 0), std=(1, 1, 1))
    file, fast = jpeg(smooth(640, 400), orientation), FastPreprocess(cfg)
    shrunk = open_image(file, min_size=fast.min_size)
    whole = open_image(file)
    assert shrunk.width < whole.width
    assert (shrunk.width < shrunk.height) == (whole.width < whole.height)
    assert (fast(shrunk) - Preprocess(cfg)(whole)).abs().mean() < 2 / 255


def test_a_jpeg_is_never_shrunk_below_three_times_the_needed_size() -> None:
    fast = FastPreprocess(PreprocessCfg(size=32))
    for width, height in ((640, 480), (193, 192), (192, 191), (500, 96), (2000, 70)):
        shrunk = open_image(jpeg(smooth(width, height)), min_size=fast.min_size)
        assert min(shrunk.size) >= min(3 * 32, width, height)


def test_an_image_of_30000_by_2_needs_little_memory() -> None:
    image = smooth(30_000, 2)
    assert FastPreprocess(PreprocessCfg(size=224))(image).shape == (3, 224, 224)


def test_transparent_images_get_the_background() -> None:
    cfg = PreprocessCfg(size=32, background=(255, 0, 0))
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    assert torch.allclose(FastPreprocess(cfg)(image), Preprocess(cfg)(image))


def test_a_truncated_file_is_an_error() -> None:
    from oneclip.errors import ImageError

    fast = FastPreprocess(PreprocessCfg(size=32))
    with pytest.raises(ImageError, match="truncated"):
        open_image(jpeg(smooth(640, 400))[:3000], min_size=fast.min_size)
