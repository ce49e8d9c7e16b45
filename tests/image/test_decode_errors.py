"""`open_image`: errors for sources that it cannot open."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sample_images import encoded, gradient

from oneclip.errors import ConfigError, ImageError, ImageTooLargeError
from oneclip.image import DEFAULT_MAX_PIXELS, open_image, pixel_limit
from oneclip.image.libtiff import silence_libtiff


def png_header(width: int, height: int) -> bytes:
    """Make a PNG whose header has this size, with almost no data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(100)))
        + chunk(b"IEND", b"")
    )


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ImageError, match=r"cat\.jpg: no such file$"):
        open_image(tmp_path / "cat.jpg")
    with pytest.raises(ImageError, match=r"no such file \(folder .*holiday does not exist\)"):
        open_image(tmp_path / "holiday" / "cat.jpg")


def test_a_folder_is_reported_as_a_folder(tmp_path):
    with pytest.raises(ImageError, match="is a folder; expected an image file"):
        open_image(tmp_path)


@pytest.mark.parametrize(
    ("path", "message"),
    [("https://example.org/cat.jpg", "is an address"), ("", "is empty"), ("a\0b", "null character")],
)
def test_an_invalid_path_is_explained(path, message):
    with pytest.raises(ImageError, match=message):
        open_image(path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read anything")
def test_a_file_without_permission_is_named(tmp_path):
    path = tmp_path / "secret.png"
    gradient().save(path)
    path.chmod(0)
    with pytest.raises(ImageError, match=r"secret\.png cannot be read: Permission denied"):
        open_image(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"just some words", r"not an image that Pillow can read: it begins with b'just some words'"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b'<?xml version="1.0"?><svg/>', "SVG"),
        (b"\xef\xbb\xbf  <svg xmlns='x'/>", "an SVG drawing"),
        (b"%PDF-1.7 ...", "a PDF"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "PostScript"),
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00", r"oneclip\[heif\]|begins like HEIF"),
        (b"\x89PNG\r\n\x1a\n", "it begins like PNG, but"),
        (b"\xff\xd8\xff", "begins like JPEG, but"),
        (b"GIF89a", "begins like GIF, but"),
        (b"\x00" * 64, "begins with"),
    ],
)
def test_a_file_that_is_not_an_image_is_described(tmp_path, content, message):
    path = tmp_path / "cat.jpg"
    path.write_bytes(content)
    for source in (path, content, io.BytesIO(content)):
        with pytest.raises(ImageError, match=message) as caught:
            open_image(source)
    with pytest.raises(ImageError, match=r"cat\.jpg") as caught:
        open_image(path)
    assert not isinstance(caught.value, ImageTooLargeError)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_a_truncated_file_is_reported(kind):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, kind)
    with pytest.raises(ImageError, match=r"truncated or damaged|begins like"):
        open_image(data[: len(data) // 2])


def test_a_truncated_file_opened_by_pillow_is_reported(tmp_path):
    path = tmp_path / "half.jpg"
    data = encoded(gradient(300, 300), "JPEG")
    path.write_bytes(data[: len(data) // 2])
    with Image.open(path) as lazy, pytest.raises(ImageError, match=r"half\.jpg is truncated or damaged"):
        open_image(lazy)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), kind=st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"]))
def test_a_damaged_file_gives_an_image_or_an_image_error(data, kind):
    whole = bytearray(encoded(gradient(16, 12), kind))
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = open_image(damaged, max_pixels=10**6)
    except ImageError:
        return
    assert found.width * found.height <= 10**6


def test_a_source_of_another_type_is_named():
    for source, message in (
        (17, "not int"),
        (None, "not NoneType"),
        (torch.zeros(3, 4, 4), "not Tensor; encode_pixels takes tensors"),
        (io.StringIO("text"), "opened as text"),
    ):
        with pytest.raises(ImageError, match=message):
            open_image(source)
    closed = io.BytesIO(b"")
    closed.close()
    with pytest.raises(ImageError, match="closed"):
        open_image(closed)


def test_a_pil_image_without_pixels_is_refused():
    with pytest.raises(ImageError, match="no pixels: 0 x 7"):
        open_image(Image.new("L", (0, 7)))


def test_a_decompression_bomb_is_not_decoded(monkeypatch):
    monkeypatch.delenv("ONECLIP_MAX_PIXELS", raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(
            ImageTooLargeError, match=r"100000 x 100000 pixels.*178956970.*ONECLIP_MAX_PIXELS"
        ):
            open_image(png_header(100_000, 100_000))


def test_the_limit_is_an_argument_or_a_variable(monkeypatch):
    data = encoded(gradient(48, 32), "PNG")
    monkeypatch.delenv("ONECLIP_MAX_PIXELS", raising=False)
    assert pixel_limit() == DEFAULT_MAX_PIXELS
    open_image(data, max_pixels=48 * 32)
    with pytest.raises(ImageTooLargeError):
        open_image(data, max_pixels=48 * 32 - 1)
    monkeypatch.setenv("ONECLIP_MAX_PIXELS", "1_000")
    assert pixel_limit() == 1000
    with pytest.raises(ImageTooLargeError, match="limit of 1000"):
        open_image(data)
    open_image(data, max_pixels=10_000)
    for text in ("many", "-5", "1e6", "0"):
        monkeypatch.setenv("ONECLIP_MAX_PIXELS", text)
        with pytest.raises(ConfigError, match="ONECLIP_MAX_PIXELS"):
            open_image(data)
    with pytest.raises(ConfigError, match="max_pixels must be at least 1"):
        open_image(data, max_pixels=0)


def test_pillows_own_limit_is_neither_used_nor_changed(monkeypatch):
    data = encoded(Image.new("L", (100, 100)), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(data))
    assert open_image(data).size == (100, 100)
    assert Image.MAX_IMAGE_PIXELS == 50


def test_libtiff_writes_nothing_to_stderr_and_the_error_names_the_file(tmp_path, capfd):
    path = tmp_path / "scan.tif"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path, compression="tiff_lzw")
    content = bytearray(path.read_bytes())
    content[200:900] = b"\xff" * 700  # "tempfile.tif: Using code not yet in table."
    path.write_bytes(content)
    if not silence_libtiff():
        pytest.skip("libtiff is compiled into this Pillow")
    with pytest.raises(ImageError, match=r"scan\.tif is truncated or damaged \(TIFF, 64 x 64\)"):
        open_image(path)
    assert capfd.readouterr().err == ""
