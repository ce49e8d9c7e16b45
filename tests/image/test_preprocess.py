"""`Preprocess` equals torchvision's transforms bit for bit."""

from __future__ import annotations

import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import PIL
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision_stub import import_torchvision

from oneclip.config import OPENAI_MEAN, OPENAI_STD, PreprocessCfg
from oneclip.errors import ConfigError, ImageError, ImageTooLargeError, OneCLIPError
from oneclip.image import Preprocess
from oneclip.image.steps import CenterCrop, Normalize, Resize, ResizeKeepRatio, ToRGB, ToTensor

MODES = (
    "1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "LAB", "HSV", "I", "F",
    "I;16", "I;16L", "I;16B", "I;16N",
)  # fmt: skip
SIZES = (
    (1, 1), (1, 2), (2, 1), (3, 200), (200, 3), (1, 97), (97, 1), (31, 32), (32, 32), (32, 33), (33, 32),
    (64, 48), (48, 64), (65, 500), (500, 65), (40, 41),
)  # fmt: skip


def random_image(mode: str, width: int, height: int, seed: int = 0) -> Image.Image:
    """Make noise over the whole range of a mode, with a random palette if it has one."""
    rng = np.random.default_rng(seed)
    if mode == "F":
        return Image.fromarray(rng.uniform(-20, 300, (height, width)).astype(np.float32))
    if mode == "I":
        return Image.fromarray(rng.integers(-100, 70_000, (height, width), dtype=np.int32))
    if mode == "1":
        return Image.fromarray(rng.integers(0, 256, (height, width), dtype=np.uint8)).convert("1")
    length = len(Image.new(mode, (width, height)).tobytes())
    image = Image.frombytes(mode, (width, height), rng.integers(0, 256, length, dtype=np.uint8).tobytes())
    if mode in ("P", "PA"):
        image.putpalette(rng.integers(0, 256, 768, dtype=np.uint8).tobytes())
        assert image.mode == mode
    return image


def published(cfg: PreprocessCfg):
    """Build the pipeline of both published packages from torchvision's transforms."""
    transforms = import_torchvision()
    functional = import_torchvision("torchvision.transforms.functional")
    filters = {
        "bicubic": transforms.InterpolationMode.BICUBIC,
        "bilinear": transforms.InterpolationMode.BILINEAR,
    }
    interpolation = filters[cfg.interpolation]
    height, width = cfg.size if isinstance(cfg.size, tuple) else (cfg.size, cfg.size)

    def keep_ratio(share_of_longest: int):
        def resize(image):
            ratios = image.height / height, image.width / width
            ratio = max(ratios) * share_of_longest + min(ratios) * (1.0 - share_of_longest)
            return functional.resize(
                image, [round(image.height / ratio), round(image.width / ratio)], interpolation
            )

        return resize

    def center_crop_or_pad(image):
        left, top = max(0, width - image.width), max(0, height - image.height)
        if left or top:
            border = [left // 2, top // 2, (left + 1) // 2, (top + 1) // 2]
            image = functional.pad(image, border, fill=cfg.fill_color)
        return functional.center_crop(image, [height, width])

    geometry = {
        "shortest": [
            transforms.Resize(height, interpolation=interpolation) if height == width else keep_ratio(0),
            transforms.CenterCrop((height, width)),
        ],
        "longest": [keep_ratio(1), center_crop_or_pad],
        "squash": [transforms.Resize((height, width), interpolation=interpolation)],
    }[cfg.resize_mode]
    return transforms.Compose(
        [
            *geometry,
            lambda image: image.convert("RGB"),
            transforms.ToTensor(),
            transforms.Normalize(cfg.mean, cfg.std),
        ]
    )


def assert_same(image: Image.Image, cfg: PreprocessCfg) -> None:
    preprocess = Preprocess(cfg)
    try:
        expected = published(cfg)(image.copy())
    except ValueError:  # this Pillow cannot resize, pad or convert the mode
        if not loses_an_edge(image, cfg):
            with pytest.raises(ImageError, match=f"an image of mode {image.mode} cannot be"):
                preprocess(image)
        return
    found = preprocess(image)
    assert found.dtype == torch.float32
    assert found.is_contiguous()
    assert torch.equal(found, expected)
    assert np.array_equal(preprocess.array(image), expected.numpy())


def loses_an_edge(image: Image.Image, cfg: PreprocessCfg) -> bool:
    """Report whether the published pipeline rounds an edge to 0 pixels and fails."""
    height, width = cfg.size if isinstance(cfg.size, tuple) else (cfg.size, cfg.size)
    ratio = max(image.height / height, image.width / width)
    return cfg.resize_mode == "longest" and 0 in (round(image.height / ratio), round(image.width / ratio))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
def test_every_mode_and_size_equals_torchvision_bit_for_bit(mode, interpolation, resize_mode):
    for seed, (width, height) in enumerate(SIZES):
        image = random_image(mode, width, height, seed)
        for size in (32, (24, 40), (40, 24)):
            fill = 0 if seed % 2 else 77
            assert_same(
                image,
                PreprocessCfg(
                    size=size, interpolation=interpolation, resize_mode=resize_mode, fill_color=fill
                ),
            )


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    mode=st.sampled_from(MODES),
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    size=st.one_of(st.integers(1, 96), st.tuples(st.integers(1, 96), st.integers(1, 96))),
    resize_mode=st.sampled_from(["shortest", "longest", "squash"]),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_random_images_equal_torchvision_bit_for_bit(
    mode, width, height, size, resize_mode, interpolation, seed
):
    cfg = PreprocessCfg(size=size, resize_mode=resize_mode, interpolation=interpolation)
    assert_same(random_image(mode, width, height, seed), cfg)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    mode=st.sampled_from(["RGB", "L"]),
    width=st.integers(1, 200),
    height=st.integers(1, 2000),
    size=st.integers(1, 64),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_tall_images_equal_torchvision_bit_for_bit(mode, width, height, size, interpolation, seed):
    image = random_image(mode, width, height, seed)
    assert_same(image, PreprocessCfg(size=size, interpolation=interpolation))


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (1000, 2600), (2600, 1000), (224, 224), (223, 225)])
def test_the_published_size_equals_torchvision_bit_for_bit(size):
    assert_same(random_image("RGB", *size), PreprocessCfg())
    assert_same(random_image("RGBA", *size), PreprocessCfg())


def test_every_sample_value_is_normalized_as_in_torchvision():
    every = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    for mean, std in ((OPENAI_MEAN, OPENAI_STD), ((0.5,) * 3, (0.5,) * 3), ((0.0,) * 3, (1.0,) * 3)):
        assert_same(Image.fromarray(every), PreprocessCfg(size=16, mean=mean, std=std))


def test_normalization_is_the_formula_in_float32():
    samples = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    mean, std = np.float32(OPENAI_MEAN), np.float32(OPENAI_STD)
    expected = (samples.astype(np.float32) / np.float32(255) - mean) / std
    found = Preprocess(PreprocessCfg(size=8))(Image.fromarray(samples))
    assert torch.equal(found, torch.from_numpy(expected).permute(2, 0, 1))


def test_single_steps_equal_torchvision():
    transforms = import_torchvision()
    for mode in ("1", "L", "RGB", "RGBA", "I", "I;16", "F", "CMYK"):
        image = random_image(mode, 9, 7)
        assert torch.equal(ToTensor()(image), transforms.ToTensor()(image)), mode
        assert CenterCrop((9, 4))(image).tobytes() == transforms.CenterCrop((9, 4))(image).tobytes(), mode
    tensor = torch.rand(2, 3, 4, 5)
    before = tensor.clone()
    assert torch.equal(
        Normalize(OPENAI_MEAN, OPENAI_STD)(tensor), transforms.Normalize(OPENAI_MEAN, OPENAI_STD)(tensor)
    )
    assert torch.equal(tensor, before)


def test_it_composes_with_torchvision():
    transforms = import_torchvision()
    image = random_image("RGB", 50, 40)
    preprocess = Preprocess(PreprocessCfg(size=16))
    both = transforms.Compose(
        [transforms.RandomHorizontalFlip(p=1.0), preprocess, transforms.ConvertImageDtype(torch.float64)]
    )
    flipped = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert torch.equal(both(image), preprocess(flipped).double())
    assert torch.equal(transforms.Compose(preprocess.transforms)(image), preprocess(image))


def test_its_steps_are_a_list_and_edits_of_it_count():
    preprocess = Preprocess(PreprocessCfg(size=16))
    assert preprocess.transforms == [
        Resize(16), CenterCrop((16, 16)), ToRGB(), ToTensor(), Normalize(OPENAI_MEAN, OPENAI_STD)
    ]  # fmt: skip
    image = random_image("RGB", 50, 40)
    normalized = preprocess(image)
    normalize = preprocess.transforms.pop()
    assert torch.equal(normalize(preprocess(image)), normalized)
    preprocess.transforms.insert(0, lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    assert not torch.equal(normalize(preprocess(image)), normalized)


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
def test_fused_steps_equal_the_steps_one_by_one(resize_mode):
    preprocess = Preprocess(PreprocessCfg(size=20, resize_mode=resize_mode))
    for mode in ("RGB", "L", "RGBA"):
        image = expected = random_image(mode, 30, 300)
        for step in preprocess.transforms:
            expected = step(expected)
        assert torch.equal(preprocess(image), expected)


def test_edited_steps_need_torch():
    preprocess = Preprocess()
    preprocess.transforms.append(lambda tensor: tensor * 2)
    with pytest.raises(ConfigError, match="edited"):
        preprocess.array(random_image("RGB", 30, 20))


def test_it_can_be_pickled_and_its_repr_lists_the_steps():
    preprocess = Preprocess(PreprocessCfg(size=(16, 24), resize_mode="longest", fill_color=9))
    again = pickle.loads(pickle.dumps(preprocess))
    image = random_image("RGB", 50, 40)
    assert torch.equal(again(image), preprocess(image))
    assert again.cfg == preprocess.cfg
    assert repr(Preprocess(PreprocessCfg(size=16))).startswith(
        "Preprocess(Resize(size=16, interpolation='bicubic') -> CenterCrop(size=(16, 16), fill=0) -> ToRGB()"
    )


def test_the_input_image_is_not_changed():
    for mode in ("RGB", "P", "L"):
        image = random_image(mode, 16, 16)
        image.info["transparency"] = bytes(range(256)) if mode == "P" else 0 if mode == "L" else (1, 2, 3)
        before, info = image.tobytes(), dict(image.info)
        tensor = Preprocess(PreprocessCfg(size=16, resize_mode="squash"))(image)
        tensor.zero_()
        assert image.tobytes() == before
        assert image.info == info


def test_a_palette_with_transparency_gives_no_warning():
    image = random_image("P", 20, 20)
    image.info["transparency"] = bytes(range(256))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = Preprocess(PreprocessCfg(size=10))(image)
    del image.info["transparency"]
    assert torch.equal(found, Preprocess(PreprocessCfg(size=10))(image))


def test_it_works_in_threads():
    preprocess = Preprocess(PreprocessCfg(size=32))
    images = [random_image("RGB", 50 + i, 300 - i, i) for i in range(24)]
    with ThreadPoolExecutor(8) as pool:
        for found, image in zip(pool.map(preprocess, images), images, strict=True):
            assert torch.equal(found, preprocess(image))


def test_an_edge_never_gets_zero_pixels():
    thin = random_image("RGB", 1, 1000)
    assert Preprocess(PreprocessCfg(size=32, resize_mode="longest"))(thin).shape == (3, 32, 32)
    assert ResizeKeepRatio((32, 32), longest=1.0).output_size(1000, 1) == (32, 1)


def test_a_thin_image_that_would_need_too_much_memory_is_refused(monkeypatch):
    monkeypatch.setenv("ONECLIP_MAX_PIXELS", "100000")
    with pytest.raises(ImageTooLargeError, match="1 x 1000 would be resized to 32 x 32000"):
        Preprocess(PreprocessCfg(size=32))(Image.new("RGB", (1, 1000)))
    with pytest.raises(ImageTooLargeError, match="1000 x 1 would be resized to 32000 x 32"):
        Preprocess(PreprocessCfg(size=32))(Image.new("RGB", (1000, 1)))


def test_a_fill_colour_of_three_numbers_works_in_every_mode():
    cfg = PreprocessCfg(size=8, resize_mode="longest", fill_color=(255, 0, 0), mean=(0,) * 3, std=(1,) * 3)
    for mode in ("L", "P", "RGBA", "RGB", "CMYK"):
        tensor = Preprocess(cfg)(Image.new(mode, (8, 4)))
        assert tensor[:, 0, 0].tolist() == [1, 0, 0], mode
        assert tensor[:, -1, -1].tolist() == [1, 0, 0], mode


@pytest.mark.parametrize(
    "given_instead", ["cat.jpg", np.zeros((4, 4, 3), np.uint8), torch.zeros(3, 4, 4), None]
)
def test_an_argument_that_is_not_an_image_is_named(given_instead):
    with pytest.raises(
        ImageError, match=f"expected a PIL image, not {type(given_instead).__name__}.*open_image"
    ):
        Preprocess()(given_instead)


@pytest.mark.skipif(int(PIL.__version__.split(".")[0]) < 12, reason="older versions cannot resize all modes")
def test_only_one_mode_is_refused():
    for mode in set(MODES) - {"La"}:
        assert Preprocess(PreprocessCfg(size=4))(random_image(mode, 9, 8)).shape == (3, 4, 4)


def test_a_mode_that_cannot_be_converted_is_named():
    with pytest.raises(ImageError, match=r"mode La .* convert it to LA"):
        Preprocess(PreprocessCfg(size=4))(random_image("La", 8, 8))


def test_an_image_without_pixels_is_refused():
    with pytest.raises(ImageError, match="no pixels: 0 x 5"):
        Preprocess()(Image.new("RGB", (0, 5)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"resize_mode": "stretch"},
        {"interpolation": "nearby"},
        {"size": 0},
        {"size": (3, 4, 5)},
        {"mode": "L"},
        {"std": (1.0, 0.0, 1.0)},
        {"mean": (0.5,)},
    ],
)
def test_an_invalid_configuration_is_refused(wrong):
    with pytest.raises(ConfigError) as caught:
        Preprocess(PreprocessCfg(**wrong))
    assert isinstance(caught.value, OneCLIPError)
