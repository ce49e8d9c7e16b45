"""A `preprocessor_config.json` has the same effect as in transformers, or an error says what is not supported."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from oneclip.config import OPENAI_MEAN, OPENAI_STD, PreprocessCfg
from oneclip.errors import ConfigError
from oneclip.image import Preprocess
from oneclip.image.transformers_preprocessor import read_preprocessor, write_preprocessor

HALF = (0.5, 0.5, 0.5)
SQUARE = {"height": 64, "width": 64}
CLIP: dict[str, Any] = {
    "image_processor_type": "CLIPImageProcessor",
    "size": {"shortest_edge": 64},
    "crop_size": SQUARE,
    "image_mean": list(OPENAI_MEAN),
    "image_std": list(OPENAI_STD),
    "resample": 3,
}
SIGLIP: dict[str, Any] = {
    "image_processor_type": "SiglipImageProcessor",
    "size": SQUARE,
    "image_mean": list(HALF),
    "image_std": list(HALF),
    "resample": 2,
}
OLD_CLIP: dict[str, Any] = {  # in files from 2022
    "feature_extractor_type": "CLIPFeatureExtractor",
    "size": 64,
    "crop_size": 64,
    "do_center_crop": True,
    "image_mean": list(OPENAI_MEAN),
    "image_std": list(OPENAI_STD),
    "resample": 3,
}
SQUASHED = PreprocessCfg(64, mean=HALF, std=HALF, interpolation="bilinear", resize_mode="squash")


@pytest.mark.parametrize(
    ("content", "cfg"),
    [
        (CLIP, PreprocessCfg(64)),
        (OLD_CLIP, PreprocessCfg(64)),
        (CLIP | {"crop_size": 64, "do_convert_rgb": None}, PreprocessCfg(64)),
        (CLIP | {"image_processor_type": "CLIPImageProcessorFast"}, PreprocessCfg(64)),
        ({"image_processor": CLIP, "processor_class": "CLIPProcessor"}, PreprocessCfg(64)),
        (CLIP | {"do_normalize": False}, PreprocessCfg(64, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))),
        (SIGLIP, SQUASHED),
        (SIGLIP | {"do_center_crop": None, "rescale_factor": 0.00392156862745098}, SQUASHED),
        (
            CLIP
            | {"image_processor_type": "ChineseCLIPImageProcessor", "size": SQUARE, "do_center_crop": False},
            PreprocessCfg(64, resize_mode="squash"),
        ),
    ],
)
def test_a_supported_preprocessor_is_read(content: dict[str, Any], cfg: PreprocessCfg) -> None:
    assert read_preprocessor(content, 64) == cfg


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (CLIP | {"resample": 1}, "resample is 1"),
        (CLIP | {"do_resize": False}, "do_resize"),
        (CLIP | {"do_rescale": False}, "do_rescale"),
        (CLIP | {"rescale_factor": 1 / 127.5}, "divided by 255"),
        (CLIP | {"do_pad": True}, "do_pad"),
        (CLIP | {"crop_size": 56}, "the model needs 64 x 64"),
        (CLIP | {"do_center_crop": False}, "the model needs 64 x 64"),
        (CLIP | {"size": {"longest_edge": 64}}, "longest_edge"),
        (CLIP | {"image_mean": [0.5]}, "one per channel"),
        (CLIP | {"image_processor_type": "ViltImageProcessor"}, "ViltImageProcessor"),
        (CLIP | {"image_mean": [0.5, "red", 0.5]}, "image_mean is 'red'"),
        (CLIP | {"rescale_factor": 10**400}, "rescale_factor"),
        (CLIP | {"resample": [3]}, "resample"),
        ({"image_processor_type": "Siglip2ImageProcessor", "max_num_patches": 256}, "NaFlex"),
    ],
)
def test_an_unsupported_preprocessor_is_refused(content: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_preprocessor(content, 64)


@pytest.mark.parametrize("family", ["CLIP", "Siglip", "ChineseCLIP"])
@pytest.mark.parametrize("cfg", [PreprocessCfg(64), SQUASHED])
def test_a_written_preprocessor_is_read_back(cfg: PreprocessCfg, family: str) -> None:
    assert read_preprocessor(write_preprocessor(cfg, family), 64) == cfg


@pytest.mark.parametrize(
    "cfg",
    [
        PreprocessCfg((64, 32)),
        PreprocessCfg(64, resize_mode="longest"),
        PreprocessCfg(64, interpolation="random"),
        PreprocessCfg(64, background=(255, 255, 255)),
    ],
)
def test_steps_that_transformers_lacks_are_not_written(cfg: PreprocessCfg) -> None:
    with pytest.raises(ConfigError):
        write_preprocessor(cfg, "CLIP")


@pytest.mark.parametrize("size", [(96, 128), (64, 64), (40, 30)])
@pytest.mark.parametrize("cfg", [PreprocessCfg(64), SQUASHED])
def test_pixels_equal_those_of_transformers(cfg: PreprocessCfg, size: tuple[int, int]) -> None:
    """Compare with its processors that use PIL; sizes have even margins, since odd ones may differ by a pixel."""
    pytest.importorskip("transformers")
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    content = write_preprocessor(cfg, "CLIP" if cfg.resize_mode == "shortest" else "Siglip")
    kind = content.pop("image_processor_type")
    theirs = {"CLIPImageProcessor": CLIPImageProcessorPil, "SiglipImageProcessor": SiglipImageProcessorPil}[
        kind
    ]
    samples = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    image = Image.fromarray(samples)
    expected = theirs(**content)(image, return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(Preprocess(cfg)(image).numpy(), expected, atol=1e-5)
