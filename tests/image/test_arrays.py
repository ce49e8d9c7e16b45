"""`open_image` converts arrays of every depth to 8 bits."""

from __future__ import annotations

import numpy as np
import pytest

from oneclip.errors import ImageError
from oneclip.image import open_image


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3), (5, 7, 4)])
def test_arrays_of_every_depth_are_scaled_to_eight_bits(shape):
    samples = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    flat = samples[..., 0] if shape[-1] == 1 else samples
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[shape[2] if len(shape) == 3 else 1]
    forms = {
        "uint8": samples,
        "uint16": samples.astype(np.uint16) * 257,
        "big-endian": (samples.astype(np.uint16) * 257).astype(">u2"),
        "float16": (samples / 255).astype(np.float16),
        "float32": samples.astype(np.float32) / 255,
        "float64": samples / 255,
        "every second": samples.repeat(2, 1)[:, ::2],
        "column-major": np.asfortranarray(samples),
    }
    for name, array in forms.items():
        found = open_image(array)
        assert found.mode == mode, name
        assert np.array_equal(np.asarray(found), flat), name
    assert np.array_equal(np.asarray(open_image(samples > 127)), np.where(flat > 127, 255, 0))


def test_16_bits_are_rounded_to_the_nearest_8_bit_value():
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    exact = np.rint(every.astype(np.float64) / 65535 * 255).astype(np.uint8)
    assert np.array_equal(np.asarray(open_image(every)), exact)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (np.zeros((4, 0), np.uint8), "no pixels"),
        (np.zeros((4,), np.uint8), r"\(H, W\) or \(H, W, 1 \| 3 \| 4\); found uint8 \(4,\)"),
        (np.zeros((4, 4, 2), np.uint8), r"found uint8 \(4, 4, 2\)"),
        (np.zeros((3, 9, 9), np.uint8), "channels come last"),
        (np.zeros((2, 9, 9, 3), np.uint8), "one by one"),
        (np.full((4, 4), 200.0), r"float samples in \[200, 200\]; expected \[0, 1\]"),
        (np.full((4, 4), -0.5), r"in \[-0.5, -0.5\]"),
        (np.full((4, 4), np.nan), "nan"),
        (np.full((4, 4), np.inf), "inf"),
        (np.zeros((4, 4), np.int64), r"int64.*astype\(np.uint8\)"),
        (np.zeros((4, 4), np.uint32), "uint32"),
        (np.zeros((4, 4), np.complex64), "complex64"),
        (np.array([["a"]]), "<U1"),
    ],
)
def test_an_array_that_is_not_an_image_is_refused(array, message):
    with pytest.raises(ImageError, match=message):
        open_image(array)
