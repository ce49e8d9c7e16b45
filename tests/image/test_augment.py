"""`Augment`: the random numbers of the published pipelines, reproducible results, invalid configurations."""

from __future__ import annotations

import pickle
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision_stub import import_torchvision

from oneclip.config import OPENAI_MEAN, OPENAI_STD, PreprocessCfg
from oneclip.errors import ConfigError, ImageError
from oneclip.image import Augment, AugmentCfg, Preprocess
from oneclip.image.augment import draw_crop

STRONG = AugmentCfg(
    scale=(0.08, 1.0), color_jitter=(0.4, 0.3, 0.2, 0.1), color_jitter_prob=0.8, gray_scale_prob=0.3
)


def noise(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    samples = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(samples).convert(mode)


def published(size: int | tuple[int, int], cfg: AugmentCfg):
    """Build the training pipeline of open_clip 3.3.0 from torchvision's transforms."""
    transforms = import_torchvision()

    def with_probability(probability, transform):
        return lambda image: transform(image) if random.random() < probability else image

    steps = [
        transforms.RandomResizedCrop(
            size, scale=cfg.scale, ratio=cfg.ratio, interpolation=transforms.InterpolationMode.BICUBIC
        ),
        lambda image: image.convert("RGB"),
    ]
    if cfg.color_jitter_prob:
        steps.append(with_probability(cfg.color_jitter_prob, transforms.ColorJitter(*cfg.color_jitter)))
    if cfg.gray_scale_prob:
        steps.append(with_probability(cfg.gray_scale_prob, transforms.Grayscale(num_output_channels=3)))
    return transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(OPENAI_MEAN, OPENAI_STD)])


def seeded(transform, image: Image.Image, seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    random.seed(seed)
    return transform(image)


@settings(max_examples=80, deadline=None)
@given(
    mode=st.sampled_from(["RGB", "L", "P", "RGBA", "CMYK", "1", "LA"]),
    width=st.integers(1, 120),
    height=st.integers(1, 120),
    size=st.one_of(st.integers(1, 48), st.tuples(st.integers(1, 48), st.integers(1, 48))),
    cfg=st.sampled_from(
        [
            AugmentCfg(),
            STRONG,
            AugmentCfg(scale=(0.01, 0.02), ratio=(0.6, 0.7)),
            AugmentCfg(color_jitter=(0.8, 0.8, 0.8, 0.5), color_jitter_prob=1.0),
            AugmentCfg(color_jitter=(0.0, 1.5, 0.0, 0.2), color_jitter_prob=1.0, gray_scale_prob=0.5),
        ]
    ),
    seed=st.integers(0, 2**31),
)
def test_global_draws_and_pixels_equal_the_published_pipeline(mode, width, height, size, cfg, seed):
    image = noise(width, height, mode, seed)
    found = seeded(Augment(PreprocessCfg(size=size), cfg), image, seed)
    after = torch.rand(1)
    assert torch.equal(found, seeded(published(size, cfg), image, seed))
    assert torch.equal(after, torch.rand(1))  # the same number of random numbers was drawn


def test_a_generator_makes_the_result_independent_of_the_global_generators():
    augment, image = Augment(PreprocessCfg(size=16), STRONG), noise(60, 40)
    first = [augment(image, 7), augment(image, torch.Generator().manual_seed(7))]
    torch.manual_seed(1)
    random.seed(1)
    before = torch.get_rng_state(), random.getstate()
    again = pickle.loads(pickle.dumps(augment))(image, 7)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert all(torch.equal(tensor, again) for tensor in first)
    assert len({augment(image, seed).sum().item() for seed in range(20)}) == 20


def test_a_generator_resumes_where_its_state_was_saved():
    augment, image = Augment(PreprocessCfg(size=16), STRONG), noise(60, 40)
    generator = torch.Generator().manual_seed(0)
    augment(image, generator)
    state = generator.get_state()
    onwards = [augment(image, generator) for _ in range(5)]
    resumed = torch.Generator()
    resumed.set_state(state)
    for expected in onwards:
        assert torch.equal(augment(image, resumed), expected)


def test_a_crop_of_the_whole_image_equals_squash():
    image = noise(40, 30)
    whole = AugmentCfg(scale=(1.0, 1.0), ratio=(4 / 3, 4 / 3))
    squash = Preprocess(PreprocessCfg(size=16, resize_mode="squash"))
    assert torch.equal(Augment(PreprocessCfg(size=16), whole)(image, 0), squash(image))


def test_crops_are_inside_the_image_and_the_ranges():
    generator = torch.Generator().manual_seed(0)
    cfg = AugmentCfg(scale=(0.2, 0.5), ratio=(0.5, 2.0))
    for _ in range(300):
        top, left, height, width = draw_crop(200, 300, cfg, generator)
        assert top >= 0
        assert left >= 0
        assert top + height <= 200
        assert left + width <= 300
        assert 0.19 < height * width / 60_000 < 0.51
        assert 0.49 < width / height < 2.04


@pytest.mark.parametrize(
    ("height", "width", "crop"), [(10, 100, (0, 43, 10, 13)), (100, 10, (43, 0, 13, 10))]
)
def test_an_image_outside_the_ratio_range_gives_its_centre(height, width, crop):
    cfg = AugmentCfg(scale=(1.0, 1.0))
    assert draw_crop(height, width, cfg, torch.Generator().manual_seed(0)) == crop


def test_changes_have_the_given_probability():
    image = noise(8, 8)
    gray = Augment(PreprocessCfg(size=8, mean=(0,) * 3, std=(1,) * 3), AugmentCfg(gray_scale_prob=0.3))
    generator = torch.Generator().manual_seed(0)
    found = [gray(image, generator) for _ in range(400)]
    share = sum(torch.equal(tensor[0], tensor[1]) for tensor in found) / len(found)
    assert 0.23 < share < 0.37


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": (0.0, 1.0)},
        {"scale": (0.9, 0.1)},
        {"ratio": (2.0, 1.0)},
        {"ratio": (-1.0, 1.0)},
        {"gray_scale_prob": 1.5},
        {"color_jitter": (0.1, 0.1, 0.1, 0.1)},
        {"color_jitter_prob": 0.5},
        {"color_jitter": (0.1, 0.1, 0.1), "color_jitter_prob": 0.5},
        {"color_jitter": (0.1, -0.1, 0.1, 0.1), "color_jitter_prob": 0.5},
        {"color_jitter": (0.1, 0.1, 0.1, 0.6), "color_jitter_prob": 0.5},
    ],
)
def test_an_invalid_configuration_is_refused(wrong):
    with pytest.raises(ConfigError):
        AugmentCfg(**wrong)


def test_an_argument_that_is_not_an_image_is_refused():
    with pytest.raises(ImageError, match="expected a PIL image, not str"):
        Augment()("cat.jpg")
    with pytest.raises(ConfigError, match="unknown interpolation 'nearby'"):
        Augment(PreprocessCfg(interpolation="nearby"))


def test_edits_of_the_list_of_steps_take_effect() -> None:
    augment = Augment(PreprocessCfg(size=(16, 24)), STRONG)
    assert augment.transforms[0].size == (16, 24)
    del augment.transforms[1:-2]  # colours stay
    with_grey = Augment(
        PreprocessCfg(size=(16, 24)), AugmentCfg(STRONG.scale, STRONG.ratio, gray_scale_prob=1.0)
    )
    image = noise(60, 40)
    assert torch.equal(
        augment(image, 3),
        Augment(PreprocessCfg(size=(16, 24)), AugmentCfg(STRONG.scale, STRONG.ratio))(image, 3),
    )
    assert not torch.equal(augment(image, 3), with_grey(image, 3))
