"""Formats and bit depths that Pillow opens, compared with computed samples.

The table was checked once with files from tifffile and imagecodecs (libtiff, OpenJPEG, libpng, libjxl, libavif): TIFF
of 1 to 32 bits, interleaved and planar, in strips and tiles, in both byte orders, uncompressed and with LZW, deflate
and packbits; JPEG 2000 of 1 to 16 bits; PNG, PPM, PFM, AVIF, JPEG XL, HEIC, SGI, BMP and TGA. This file has the cases
that Pillow itself decodes wrongly, and one case of each other depth.
"""

from __future__ import annotations

import base64
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from sample_images import gradient
from tiff_file import tiff

from oneclip.errors import ImageError
from oneclip.image import open_image
from oneclip.image.arrays import to_8_bits
from oneclip.image.steps import CenterCrop

WIDTH, HEIGHT = 12, 8
Y, X = np.mgrid[:HEIGHT, :WIDTH]
MIN_IS_WHITE, MIN_IS_BLACK, RGB, CMYK, LAB = 0, 1, 2, 5, 8  # TIFF's photometric interpretations
# 2 x 2 samples (0, most; most // 2, most // 3) by OpenJPEG, lossless; in colour, green upside down and blue mirrored
JPEG2000 = {
    tuple(map(int, key.split("x"))): base64.b64decode(data)  # by bits and channels
    for key, data in json.loads(Path(__file__).with_name("jpeg2000.json").read_text(encoding="utf-8")).items()
}


def ramp(bits: int, channels: int) -> np.ndarray:
    """Make (H, W, C) samples from the smallest to the largest value, with another gradient in each channel."""
    most = 2**bits - 1
    gradients = (X / (WIDTH - 1), Y / (HEIGHT - 1), 1 - X / (WIDTH - 1), (X + Y) / (WIDTH + HEIGHT - 2))
    samples = np.stack([np.rint(gradient * most) for gradient in gradients[:channels]], -1)
    return samples.astype(np.uint8 if bits <= 8 else np.uint16)


def in_8_bits(samples: np.ndarray, bits: int) -> np.ndarray:
    """Compute the expected 8-bit samples of a file with this many bits."""
    return np.rint(samples * (255 / (2**bits - 1))).astype(np.uint8)


def png(bits: int, color: int, samples: np.ndarray, palette: bytes = b"") -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in samples]
    else:
        digits = (samples[:, :, None] >> np.arange(bits - 1, -1, -1)) & 1
        rows = [np.packbits(row.ravel().astype(np.uint8)).tobytes() for row in digits]
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, color, 0, 0, 0))
        + (chunk(b"PLTE", palette) if palette else b"")
        + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
        + chunk(b"IEND", b"")
    )


def ppm(most: int, channels: int) -> tuple[bytes, np.ndarray]:
    samples = np.rint(ramp(16, channels) * (most / 65535))
    head = b"P%d\n%d %d\n%d\n" % (6 if channels == 3 else 5, WIDTH, HEIGHT, most)
    return head + samples.astype(">u2" if most > 255 else "u1").tobytes(), np.rint(samples * (255 / most))


def bmp_565() -> tuple[bytes, np.ndarray]:
    red, green, blue = (ramp(bits, 3)[..., i].astype(int) for i, bits in enumerate((5, 6, 5)))
    data = (red << 11 | green << 5 | blue)[::-1].astype("<u2").tobytes()
    head = struct.pack("<IHHI", 66 + len(data), 0, 0, 66) + struct.pack(
        "<IiiHHIIiiII", 40, WIDTH, HEIGHT, 1, 16, 3, len(data), 0, 0, 0, 0
    )
    masks = struct.pack("<III", 0xF800, 0x7E0, 0x1F)
    expected = np.stack([in_8_bits(red, 5), in_8_bits(green, 6), in_8_bits(blue, 5)], -1)
    return b"BM" + head + masks + data, expected


def tga_16() -> tuple[bytes, np.ndarray]:
    """Make a TGA with five bits per colour, and one more bit that is not alpha according to its header."""
    red, green, blue = (ramp(5, 3)[..., i].astype(int) for i in range(3))
    head = struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, WIDTH, HEIGHT, 16, 0x20)
    return head + (red << 10 | green << 5 | blue).astype("<u2").tobytes(), in_8_bits(ramp(5, 3), 5)


def jpeg2000(bits: int, channels: int) -> tuple[bytes, np.ndarray]:
    most = 2**bits - 1
    gray = np.array([[0, most], [most // 2, most // 3]])
    samples = np.stack([gray, gray[::-1], gray[:, ::-1]], -1)[..., :channels]
    return JPEG2000[bits, channels], in_8_bits(samples, bits)


def table() -> dict[str, tuple[bytes, np.ndarray]]:
    """Make files by name, with their expected samples."""
    files: dict[str, tuple[bytes, np.ndarray]] = {}
    for bits in (8, 16):
        for order in "<>":
            for strip in (1000, 3):
                where = f"{bits} bits {order} strips of {strip}"
                gray, rgb, rgba = (ramp(bits, channels) for channels in (1, 3, 4))
                about = {"order": order, "strip": strip}
                files[f"TIFF gray {where}"] = tiff(gray, MIN_IS_BLACK, **about), in_8_bits(gray, bits)
                if (bits, order) != (16, ">"):  # Pillow refuses these
                    data = tiff(gray, MIN_IS_WHITE, **about)
                    files[f"TIFF min is white {where}"] = data, in_8_bits(2**bits - 1 - gray, bits)
                for separate in (False, True):
                    name = f"{where} {'separate' if separate else 'interleaved'}"
                    about["separate"] = separate
                    files[f"TIFF RGB {name}"] = tiff(rgb, RGB, **about), in_8_bits(rgb, bits)
                    alpha = tiff(rgba, RGB, **about, t338=[2])
                    files[f"TIFF RGBA {name}"] = alpha, in_8_bits(rgba, bits)
    files["TIFF gray 12 bits"] = tiff(ramp(12, 1), MIN_IS_BLACK, bits=12), in_8_bits(ramp(12, 1), 12)
    files["TIFF CMYK 8 bits"] = tiff(ramp(8, 4), CMYK), ramp(8, 4)
    files["TIFF CMYK 16 bits"] = tiff(ramp(16, 4), CMYK), in_8_bits(ramp(16, 4), 16)
    floats = (ramp(16, 1) / 65535).astype(np.float32)
    files["TIFF float"] = tiff(floats, MIN_IS_BLACK), in_8_bits(ramp(16, 1), 16)
    for bits in (1, 2, 4, 8, 16):
        gray = ramp(bits, 1)
        files[f"PNG gray {bits} bits"] = png(bits, 0, gray[..., 0]), in_8_bits(gray, bits)
    files["PNG RGB 16 bits"] = png(16, 2, ramp(16, 3)), in_8_bits(ramp(16, 3), 16)
    files["PNG RGBA 16 bits"] = png(16, 6, ramp(16, 4)), in_8_bits(ramp(16, 4), 16)
    for most in (1, 15, 255, 1023, 65535):
        for channels in (1, 3):
            files[f"PPM {channels} up to {most}"] = ppm(most, channels)
    for bits, channels in JPEG2000:
        if channels == 1 or bits <= 8:
            files[f"JPEG 2000 {channels} of {bits} bits"] = jpeg2000(bits, channels)
    files["BMP 5, 6 and 5 bits"] = bmp_565()
    files["TGA 16 bits"] = tga_16()
    return files


TABLE = table()


@pytest.mark.parametrize("name", TABLE)
def test_decoded_samples_equal_those_of_the_file(name: str) -> None:
    data, expected = TABLE[name]
    found = open_image(data)
    samples = np.asarray(found.convert("L") if found.mode == "1" else found)
    assert samples.shape == expected.squeeze().shape, found.mode
    assert np.abs(samples.astype(int) - expected.squeeze()).max() <= 1  # rounding


@pytest.mark.parametrize(("bits", "channels"), [key for key in JPEG2000 if key[0] > 8 and key[1] > 1])
def test_colour_jpeg_2000_of_more_than_8_bits_is_refused(bits: int, channels: int) -> None:
    data, _ = jpeg2000(bits, channels)
    with pytest.raises(ImageError, match=f"colour JPEG 2000 image of {bits} bits a sample"):
        open_image(data)
    box = struct.pack(">I4s", 12, b"jP  ") + b"\r\n\x87\n" + struct.pack(">I4s", 16, b"ftyp") + bytes(8)
    header = struct.pack(">I4sI4sIIHBBBB", 30, b"jp2h", 22, b"ihdr", 2, 2, channels, bits - 1, 7, 0, 0)
    with pytest.raises(ImageError, match="JPEG 2000"):  # and inside a JP2 file
        open_image(box + header + struct.pack(">I4s", 0, b"jp2c") + data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (tiff(ramp(7, 1).astype(np.int8), MIN_IS_BLACK), "signed samples"),
        (tiff(ramp(16, 4), CMYK, separate=True), "16-bit samples in separate planes"),
    ],
)
def test_other_samples_that_pillow_decodes_wrongly_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        open_image(data)


def test_the_padding_of_lab_and_ycbcr_images_is_black() -> None:
    gray = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    gray[..., 0] = 128
    lab = open_image(tiff(gray, LAB))
    ycbcr = to_8_bits(gradient(12, 8).convert("YCbCr"), "it", "PIL")
    for image in (lab, ycbcr):
        padded = np.asarray(CenterCrop((12, 12))(image).convert("RGB"))
        assert padded[:2].max() == 0  # zeros are orange in CIELAB and green in YCbCr
        assert padded[2:10].max() > 0
    assert lab.getpixel((6, 6)) == (119, 119, 119)  # L* = 50.2 in sRGB
