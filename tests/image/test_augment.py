"""`Augment`: the published draws, exact repetition, and what its configuration refuses."""

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
    """The training pipeline that open_clip 3.3.0 makes of torchvision's transforms."""
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


def seeded(transform, picture: Image.Image, seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    random.seed(seed)
    return transform(picture)


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
    picture = noise(width, height, mode, seed)
    found = seeded(Augment(PreprocessCfg(size=size), cfg), picture, seed)
    after = torch.rand(1)
    assert torch.equal(found, seeded(published(size, cfg), picture, seed))
    assert torch.equal(after, torch.rand(1))  # nothing more and nothing less was drawn


def test_the_same_generator_gives_the_same_tensor_whatever_the_global_ones_do():
    augment, picture = Augment(PreprocessCfg(size=16), STRONG), noise(60, 40)
    first = [augment(picture, 7), augment(picture, torch.Generator().manual_seed(7))]
    torch.manual_seed(1)
    random.seed(1)
    before = torch.get_rng_state(), random.getstate()
    again = pickle.loads(pickle.dumps(augment))(picture, 7)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert all(torch.equal(tensor, again) for tensor in first)
    assert len({augment(picture, seed).sum().item() for seed in range(20)}) == 20


def test_a_generator_resumes_where_its_state_was_saved():
    augment, picture = Augment(PreprocessCfg(size=16), STRONG), noise(60, 40)
    generator = torch.Generator().manual_seed(0)
    augment(picture, generator)
    state = generator.get_state()
    onwards = [augment(picture, generator) for _ in range(5)]
    resumed = torch.Generator()
    resumed.set_state(state)
    for expected in onwards:
        assert torch.equal(augment(picture, resumed), expected)


def test_nothing_to_change_is_a_squash():
    picture = noise(40, 30)
    whole = AugmentCfg(scale=(1.0, 1.0), ratio=(4 / 3, 4 / 3))
    squash = Preprocess(PreprocessCfg(size=16, resize_mode="squash"))
    assert torch.equal(Augment(PreprocessCfg(size=16), whole)(picture, 0), squash(picture))


def test_crops_lie_in_the_picture_and_in_the_ranges():
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
def test_a_picture_too_long_for_the_ratio_gives_its_centre(height, width, crop):
    cfg = AugmentCfg(scale=(1.0, 1.0))
    assert draw_crop(height, width, cfg, torch.Generator().manual_seed(0)) == crop


def test_probabilities_are_kept():
    picture = noise(8, 8)
    gray = Augment(PreprocessCfg(size=8, mean=(0,) * 3, std=(1,) * 3), AugmentCfg(gray_scale_prob=0.3))
    generator = torch.Generator().manual_seed(0)
    found = [gray(picture, generator) for _ in range(400)]
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
def test_a_configuration_that_means_nothing_is_refused(wrong):
    with pytest.raises(ConfigError):
        AugmentCfg(**wrong)


def test_what_is_no_picture_is_refused():
    with pytest.raises(ImageError, match="expected a PIL image, not str"):
        Augment()("cat.jpg")
    with pytest.raises(ConfigError, match="interpolation 'nearby'"):
        Augment(PreprocessCfg(interpolation="nearby"))


def test_the_steps_are_a_list_whose_edits_count() -> None:
    augment = Augment(PreprocessCfg(size=(16, 24)), STRONG)
    assert augment.transforms[0].size == (16, 24)
    del augment.transforms[1:-2]  # colours stay
    with_grey = Augment(
        PreprocessCfg(size=(16, 24)), AugmentCfg(STRONG.scale, STRONG.ratio, gray_scale_prob=1.0)
    )
    picture = noise(60, 40)
    assert torch.equal(
        augment(picture, 3),
        Augment(PreprocessCfg(size=(16, 24)), AugmentCfg(STRONG.scale, STRONG.ratio))(picture, 3),
    )
    assert not torch.equal(augment(picture, 3), with_grey(picture, 3))
