"""`open_clip.transform`: the published transforms."""

from __future__ import annotations

import random
import re
from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision_stub import import_torchvision

from oneclip.errors import ConfigError, MissingExtraError
from oneclip.image import Augment, AugmentCfg, Preprocess
from oneclip.installation import install_command
from open_clip import transform
from open_clip.constants import IMAGENET_MEAN, IMAGENET_STD, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD


def noise(width: int = 50, height: int = 31) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_image_transform_evaluates_with_preprocess():
    found = transform.image_transform(
        (16, 24), is_train=False, mean=[0.5] * 3, std=0.25, resize_mode="longest", fill_color=7
    )
    assert isinstance(found, Preprocess)
    assert found.cfg.size == (16, 24)
    assert (found.cfg.mean, found.cfg.std) == ((0.5,) * 3, (0.25,) * 3)
    assert found(noise()).shape == (3, 16, 24)
    plain = transform.image_transform(16, is_train=False)
    assert (plain.cfg.mean, plain.cfg.std) == (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)
    again = transform.image_transform_v2(plain.cfg, is_train=False)
    assert again.cfg == plain.cfg


def test_image_transform_trains_with_augment():
    aug_cfg = {"scale": [0.3, 1.0], "color_jitter": [0.4, 0.4, 0.4, 0.1], "color_jitter_prob": 0.8}
    found = transform.image_transform(
        16, is_train=True, mean=IMAGENET_MEAN, std=IMAGENET_STD, aug_cfg=aug_cfg
    )
    assert isinstance(found, Augment)
    assert found.augment == AugmentCfg((0.3, 1.0), color_jitter=(0.4, 0.4, 0.4, 0.1), color_jitter_prob=0.8)
    assert found.cfg.mean == IMAGENET_MEAN
    assert found(noise()).shape == (3, 16, 16)
    same = transform.image_transform(16, True, aug_cfg=transform.AugmentationCfg(**aug_cfg))
    assert same.augment == found.augment


def test_use_timm_returns_the_transform_of_timm():
    pytest.importorskip("timm")
    aug_cfg = {
        "use_timm": True,
        "ratio": (0.5, 1.0),
        "color_jitter": 0.3,
        "re_prob": 1.0,
        "scale": (0.4, 0.6),
    }
    found = transform.image_transform(
        (16, 24), True, mean=IMAGENET_MEAN, interpolation="random", aug_cfg=aug_cfg
    )
    steps = {type(step).__name__: step for step in found.transforms}
    assert found(noise()).shape == (3, 16, 24)
    assert tuple(steps["RandomResizedCropAndInterpolation"].ratio) == (0.5, 1.0)
    assert steps["RandomErasing"].probability == 1.0
    assert "RandomHorizontalFlip" not in steps
    assert steps["Normalize"].mean.tolist() == pytest.approx(IMAGENET_MEAN)


def test_a_random_interpolation_is_for_timm_only():
    for is_train in (False, True):
        assert transform.image_transform(16, is_train, interpolation="random").cfg.interpolation == "bicubic"


def test_options_for_timm_are_ignored_with_a_warning():
    with pytest.warns(UserWarning, match="use_timm is not set: ratio, re_prob"):
        transform.image_transform(16, True, aug_cfg={"ratio": (0.5, 1.0), "re_prob": 0.1})
    with pytest.raises(ConfigError, match="four amounts"):
        transform.image_transform(16, True, aug_cfg={"color_jitter": 0.4, "color_jitter_prob": 0.5})
    with pytest.raises(ConfigError, match="mode 'L'"):
        transform.PreprocessCfg(mode="L")


def test_preprocess_cfg_merges_and_knows_its_shape():
    cfg = transform.PreprocessCfg(size=(16, 24))
    assert cfg.num_channels == 3
    assert cfg.input_size == (3, 16, 24)
    merged = transform.merge_preprocess_dict(cfg, {"mean": None, "size": 32, "url": "elsewhere"})
    assert {"background": None, **merged} == {**asdict(cfg), "size": 32}
    assert transform.merge_preprocess_kwargs({"size": 4, "other": 1}, std=(1, 1, 1)) == {
        "size": 4,
        "std": (1, 1, 1),
    }


@pytest.mark.parametrize("size", [20, (20, 40), (60, 70), (31, 50)])
def test_crop_or_pad_of_a_tensor_equals_that_of_an_image(size):
    functional = import_torchvision("torchvision.transforms.functional")
    image = noise()
    tensor = functional.pil_to_tensor(image)
    cropped = transform.CenterCropOrPad(size, fill=9)(image)
    assert torch.equal(transform.CenterCropOrPad(size, fill=9)(tensor), functional.pil_to_tensor(cropped))
    if size in (20, (20, 40)):
        assert torch.equal(transform.center_crop_or_pad(tensor, size), functional.center_crop(tensor, size))


def test_resize_keep_ratio_covers_or_fits():
    assert transform.ResizeKeepRatio(20)(noise(50, 25)).size == (40, 20)
    assert transform.ResizeKeepRatio((20, 20), longest=1)(noise(50, 25)).size == (20, 10)
    random.seed(0)
    drawn = {transform.ResizeKeepRatio(20, random_scale_prob=1.0)(noise(50, 25)).size for _ in range(20)}
    assert len(drawn) > 5


def test_converters_let_tensors_and_arrays_pass():
    array, tensor = np.zeros((4, 5, 3), np.uint8), torch.zeros(3, 4, 5)
    assert transform.MaybeConvertMode()(array) is array
    assert transform.MaybeConvertMode()(tensor) is tensor
    assert transform.MaybeConvertMode("L")(noise()).mode == "L"
    assert transform.MaybeToTensor()(tensor) is tensor
    assert transform.MaybeToTensor()(array + np.uint8(255)).unique().tolist() == [1.0]
    assert transform.MaybeToTensor()(np.ones((4, 5), np.float32)).shape == (1, 4, 5)
    assert transform.MaybeToTensor()(noise()).shape == (3, 31, 50)


def test_colour_changes_with_the_given_probability():
    image = noise()
    assert transform.color_jitter(0.9, p=0.0)(image) is image
    assert transform.color_jitter(0.9, p=1.0)(image).tobytes() != image.tobytes()
    assert transform.gray_scale(p=0.0)(image) is image
    red, green, _ = transform.gray_scale(p=1.0)(image).split()
    assert red.tobytes() == green.tobytes()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ModuleNotFoundError("No module named 'timm'", name="timm"), re.escape(install_command("timm"))),
        (
            RuntimeError("operator torchvision::nms does not exist"),
            "cannot be imported: .* The installed torchvision was built for another torch",
        ),
    ],
    ids=["no timm", "another torchvision"],
)
def test_missing_packages_of_timm_augmentation_are_named(
    monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def fail(name: str) -> None:
        raise error

    monkeypatch.setattr("oneclip.model.optional_package.importlib.import_module", fail)
    with pytest.raises(MissingExtraError, match=message):
        transform.image_transform(16, True, aug_cfg={"use_timm": True})
