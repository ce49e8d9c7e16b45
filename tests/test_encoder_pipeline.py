"""Encode pipeline: images normalized on the device, and results that are fetched late."""

from collections.abc import Generator

import pytest
import torch
from PIL import Image
from tiny import picture

from oneclip.config import PreprocessCfg
from oneclip.encoding.pipeline import pipelined
from oneclip.image import FastPreprocess, Preprocess
from oneclip.image.steps import Normalize
from oneclip.image.uint8 import NormalizeUInt8, UInt8Preprocess

CFGS = {
    "published": PreprocessCfg(size=32),
    "squash": PreprocessCfg(size=32, resize_mode="squash", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    "longest": PreprocessCfg(size=(24, 32), resize_mode="longest", fill_color=127),
}
MODES = ("RGB", "L", "RGBA", "P", "1", "CMYK")


@pytest.mark.parametrize("cfg", CFGS.values(), ids=CFGS.keys())
@pytest.mark.parametrize("kind", [Preprocess, FastPreprocess])
def test_bytes_normalized_later_are_bit_for_bit_the_same(kind: type, cfg: PreprocessCfg) -> None:
    whole = kind(cfg)
    part = UInt8Preprocess.of(whole)
    assert part is not None
    images = [picture(seed, (50, 41)).convert(mode) for seed, mode in enumerate(MODES)]
    pixels = torch.stack([part(image) for image in images])
    assert pixels.dtype == torch.uint8
    assert torch.equal(
        NormalizeUInt8(part.normalize, torch.device("cpu"))(pixels),
        torch.stack([whole(image) for image in images]),
    )


def test_every_byte_value_is_bit_for_bit_the_same() -> None:
    whole = Preprocess(PreprocessCfg(size=16))
    image = Image.new("RGB", (16, 16))
    image.putdata([(value, value, value) for value in range(256)])
    part = UInt8Preprocess.of(whole)
    assert part is not None
    assert torch.equal(
        NormalizeUInt8(part.normalize, torch.device("cpu"))(part(image)[None])[0], whole(image)
    )


def test_a_changed_preprocessing_is_not_split() -> None:
    class Mine(Preprocess):
        pass

    assert UInt8Preprocess.of(Mine()) is None
    assert UInt8Preprocess.of(lambda image: image) is None
    changed = Preprocess()
    changed.transforms.append(lambda tensor: tensor * 2)
    assert UInt8Preprocess.of(changed) is None
    changed = Preprocess()
    changed.transforms[-1] = Normalize((0.5,), (0.5,))
    assert UInt8Preprocess.of(changed) is None


def counting(
    count: int, made: list[int], error: Exception | None = None
) -> Generator[tuple[int, int], None, None]:
    try:
        for number in range(count):
            made.append(number)
            yield number, number
        if error is not None:
            raise error
    finally:
        made.append(-1)


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_batches_are_started_ahead_and_stay_in_order(depth: int) -> None:
    made: list[int] = []
    batches = pipelined(counting(5, made), str, depth)
    assert next(batches) == (0, "0")
    assert made == list(range(1 + depth))
    assert list(batches) == [(number, str(number)) for number in range(1, 5)]


@pytest.mark.parametrize("depth", [0, 1, 3, 9])
def test_an_error_is_raised_after_the_results_before_it(depth: int) -> None:
    batches = pipelined(counting(5, [], ValueError("broken")), str, depth)
    assert [next(batches)[0] for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="broken"):
        next(batches)


def test_a_closed_pipeline_closes_its_source() -> None:
    made: list[int] = []
    batches = pipelined(counting(5, made), str, 1)
    next(batches)
    batches.close()
    assert made == [0, 1, -1]
