"""Batches on their way to a model: bytes that are normalised late, and batches that are asked for late."""

from collections.abc import Generator

import pytest
import torch
from PIL import Image
from tiny import picture

from oneclip.config import PreprocessCfg
from oneclip.encoder.pipeline import delayed
from oneclip.image import FastPreprocess, Preprocess
from oneclip.image.steps import Normalize
from oneclip.image.uint8 import NormalizeBytes, Unnormalized

CFGS = {
    "published": PreprocessCfg(size=32),
    "squash": PreprocessCfg(size=32, resize_mode="squash", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    "longest": PreprocessCfg(size=(24, 32), resize_mode="longest", fill_color=127),
}
MODES = ("RGB", "L", "RGBA", "P", "1", "CMYK")


@pytest.mark.parametrize("cfg", CFGS.values(), ids=CFGS.keys())
@pytest.mark.parametrize("kind", [Preprocess, FastPreprocess])
def test_bytes_normalised_later_are_bit_for_bit_the_same(kind: type, cfg: PreprocessCfg) -> None:
    whole = kind(cfg)
    part = Unnormalized.of(whole)
    assert part is not None
    images = [picture(seed, (50, 41)).convert(mode) for seed, mode in enumerate(MODES)]
    pixels = torch.stack([part(image) for image in images])
    assert pixels.dtype == torch.uint8
    assert torch.equal(
        NormalizeBytes(part.normalize, torch.device("cpu"))(pixels),
        torch.stack([whole(image) for image in images]),
    )


def test_every_byte_in_every_channel_is_the_same() -> None:
    whole = Preprocess(PreprocessCfg(size=16))
    image = Image.new("RGB", (16, 16))
    image.putdata([(value, value, value) for value in range(256)])
    part = Unnormalized.of(whole)
    assert part is not None
    assert torch.equal(
        NormalizeBytes(part.normalize, torch.device("cpu"))(part(image)[None])[0], whole(image)
    )


def test_a_preprocessing_that_was_changed_is_left_whole() -> None:
    class Mine(Preprocess):
        pass

    assert Unnormalized.of(Mine()) is None
    assert Unnormalized.of(lambda image: image) is None
    changed = Preprocess()
    changed.transforms.append(lambda tensor: tensor * 2)
    assert Unnormalized.of(changed) is None
    changed = Preprocess()
    changed.transforms[-1] = Normalize((0.5,), (0.5,))
    assert Unnormalized.of(changed) is None


def counting(count: int, made: list[int], error: Exception | None = None) -> Generator[int, None, None]:
    try:
        for number in range(count):
            made.append(number)
            yield number
        if error is not None:
            raise error
    finally:
        made.append(-1)


@pytest.mark.parametrize("by", [0, 1, 3])
def test_batches_come_late_and_in_order(by: int) -> None:
    made: list[int] = []
    batches = delayed(counting(5, made), by)
    assert next(batches) == 0
    assert made == list(range(1 + by))
    assert list(batches) == [1, 2, 3, 4]


@pytest.mark.parametrize("by", [0, 1, 3, 9])
def test_what_came_before_an_error_comes_before_it(by: int) -> None:
    batches = delayed(counting(5, [], ValueError("broken")), by)
    assert [next(batches) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="broken"):
        next(batches)


def test_who_stops_asking_stops_the_source() -> None:
    made: list[int] = []
    batches = delayed(counting(5, made), 1)
    next(batches)
    batches.close()
    assert made == [0, 1, -1]
