"""`open_image`: what it opens, how, and what it says about what it cannot."""

from __future__ import annotations

import gc
import io
import os
import pathlib
import struct
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from oneclip.errors import ConfigError, ImageError, ImageTooLargeError
from oneclip.image import DEFAULT_MAX_PIXELS, open_image, pixel_limit


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(width: int = 48, height: int = 32, mode: str = "RGB") -> Image.Image:
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(
        np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], -1).astype(np.uint8)
    ).convert(mode)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(100)))
        + chunk(b"IEND", b"")
    )


# -- the forms in which a picture comes ---------------------------------------------------------------------


def test_every_form_gives_the_same_picture(tmp_path):
    picture = gradient()
    data = encoded(picture, "PNG")
    path = tmp_path / "a b" / "ünï.png"
    path.parent.mkdir()
    path.write_bytes(data)
    forms = [
        path,
        str(path),
        data,
        bytearray(data),
        memoryview(data),
        io.BytesIO(data),
        picture,
        np.asarray(picture),
    ]
    with path.open("rb") as file:
        for form in [*forms, file]:
            found = open_image(form)
            assert found.mode == "RGB"
            assert found.tobytes() == picture.tobytes()
        assert not file.closed


def test_a_path_with_backslashes_finds_the_file(tmp_path, monkeypatch):
    (tmp_path / "pictures").mkdir()
    gradient().save(tmp_path / "pictures" / "a.png")
    monkeypatch.chdir(tmp_path)
    assert open_image("pictures\\a.png").size == (48, 32)
    assert open_image(pathlib.PureWindowsPath("pictures", "a.png")).size == (48, 32)


def test_a_stream_is_read_from_its_beginning_even_if_it_cannot_seek():
    data = encoded(gradient(), "PNG")
    at_its_end = io.BytesIO(data)
    at_its_end.seek(0, io.SEEK_END)
    assert open_image(at_its_end).size == (48, 32)
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    with open(reading, "rb") as pipe:
        assert open_image(pipe).size == (48, 32)


def test_a_pil_image_comes_back_itself_loaded_and_without_rotation():
    exif = Image.Exif()
    exif[0x0112] = 6
    lazy = Image.open(io.BytesIO(encoded(gradient(), "JPEG", exif=exif)))
    assert open_image(lazy) is lazy
    assert lazy.size == (48, 32)
    assert not lazy.tile


# -- arrays -------------------------------------------------------------------------------------------------


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


def test_sixteen_bits_round_to_the_nearest_of_eight():
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
def test_an_array_that_is_no_picture_is_refused(array, message):
    with pytest.raises(ImageError, match=message):
        open_image(array)


# -- files that need something done -------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(orientation, kind):
    upright = gradient(48, 32)
    stored = {
        1: np.asarray(upright),
        2: np.asarray(upright)[:, ::-1],
        3: np.asarray(upright)[::-1, ::-1],
        4: np.asarray(upright)[::-1],
        5: np.asarray(upright).transpose(1, 0, 2),
        6: np.rot90(np.asarray(upright), 1),  # the camera was turned: undone by 90 degrees clockwise
        7: np.rot90(np.asarray(upright), 2).transpose(1, 0, 2),
        8: np.rot90(np.asarray(upright), -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    found = open_image(encoded(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, **options))
    assert found.size == (48, 32)
    difference = np.abs(np.asarray(found, np.int16) - np.asarray(upright, np.int16))
    assert difference.mean() < (2 if kind == "JPEG" else 1e-9)
    assert found.getexif().get(0x0112, 1) == 1  # nobody will turn it again


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_metadata_does_not_cost_the_picture():
    data = encoded(gradient(), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff" + b"\x00" * 8)
    assert open_image(data).size == (48, 32)


def test_sixteen_bit_files_are_scaled_not_clipped():
    values = np.linspace(0, 65535, 48 * 32).astype(np.uint16).reshape(32, 48)
    files = {
        "PNG": encoded(Image.fromarray(values), "PNG"),
        "TIFF": encoded(Image.fromarray(values), "TIFF"),
        "PPM": b"P5\n48 32\n65535\n" + values.astype(">u2").tobytes(),
    }
    for kind, data in files.items():
        found = open_image(data)
        assert found.mode == "L", kind
        assert np.array_equal(np.asarray(found), np.rint(values / 257).astype(np.uint8)), kind


def test_sixteen_bit_big_endian_tiff_is_scaled():
    values = np.linspace(0, 65535, 48 * 32).astype(np.uint16).reshape(32, 48)
    big_endian = Image.frombytes("I;16B", (48, 32), values.astype(">u2").tobytes())
    found = open_image(encoded(big_endian, "TIFF"))
    assert np.array_equal(np.asarray(found), np.rint(values / 257).astype(np.uint8))


def test_float_tiff_is_scaled_if_its_white_is_known():
    values = np.linspace(0, 1, 48 * 32, dtype=np.float32).reshape(32, 48)
    found = open_image(encoded(Image.fromarray(values), "TIFF"))
    assert np.array_equal(np.asarray(found), np.rint(values * 255).astype(np.uint8))
    with pytest.raises(ImageError, match=r"float samples in \[0, 4000\]"):
        open_image(encoded(Image.fromarray(values * 4000), "TIFF"))


def test_thirty_two_bit_integers_are_refused():
    with pytest.raises(ImageError, match=r"32-bit integer samples \(TIFF\)"):
        open_image(encoded(Image.fromarray(np.full((4, 4), 70_000, np.int32)), "TIFF"))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_an_animation_gives_its_first_frame(kind):
    first, second = Image.new("RGB", (20, 10), (255, 0, 0)), Image.new("RGB", (20, 10), (0, 0, 255))
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(first, kind, save_all=True, append_images=[second], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 2
    found = open_image(data)
    assert type(found) is Image.Image  # not tied to a file
    assert found.convert("RGB").tobytes() == first.tobytes()


def test_the_mode_of_the_file_is_kept():
    for mode, kind in (
        ("CMYK", "JPEG"),
        ("P", "PNG"),
        ("LA", "PNG"),
        ("RGBA", "PNG"),
        ("L", "JPEG"),
        ("1", "PNG"),
    ):
        picture = gradient().convert(mode)
        found = open_image(encoded(picture, kind))
        assert found.mode == mode
        assert (
            found.convert("RGB").tobytes()
            == Image.open(io.BytesIO(encoded(picture, kind))).convert("RGB").tobytes()
        )


# -- files that are no pictures -----------------------------------------------------------------------------


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ImageError, match=r"cat\.jpg: no such file$"):
        open_image(tmp_path / "cat.jpg")
    with pytest.raises(ImageError, match=r"no such file \(there is no folder .*holiday either\)"):
        open_image(tmp_path / "holiday" / "cat.jpg")


def test_a_folder_is_called_one(tmp_path):
    with pytest.raises(ImageError, match="is a folder; give the pictures in it"):
        open_image(tmp_path)


@pytest.mark.parametrize(
    ("path", "message"),
    [("https://example.org/cat.jpg", "is an address"), ("", "is empty"), ("a\0b", "null character")],
)
def test_what_cannot_be_a_path_is_explained(path, message):
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
        (b"just some words", r"not a picture that Pillow can read: it begins with b'just some words'"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b'<?xml version="1.0"?><svg/>', "SVG"),
        (b"\xef\xbb\xbf  <svg xmlns='x'/>", "an SVG drawing"),
        (b"%PDF-1.7 ...", "a PDF"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "PostScript"),
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00", "pillow-heif"),
        (b"\x89PNG\r\n\x1a\n", "it begins like PNG, but"),
        (b"\xff\xd8\xff", "begins like JPEG, but"),
        (b"GIF89a", "begins like GIF, but"),
        (b"\x00" * 64, "begins with"),
    ],
)
def test_what_is_no_picture_is_described(tmp_path, content, message):
    path = tmp_path / "cat.jpg"
    path.write_bytes(content)
    for source in (path, content, io.BytesIO(content)):
        with pytest.raises(ImageError, match=message) as caught:
            open_image(source)
    with pytest.raises(ImageError, match=r"cat\.jpg") as caught:
        open_image(path)
    assert not isinstance(caught.value, ImageTooLargeError)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_a_truncated_file_is_called_that(kind):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, kind)
    with pytest.raises(ImageError, match=r"truncated or damaged|begins like"):
        open_image(data[: len(data) // 2])


def test_a_truncated_file_opened_lazily_elsewhere_is_called_that(tmp_path):
    path = tmp_path / "half.jpg"
    data = encoded(gradient(300, 300), "JPEG")
    path.write_bytes(data[: len(data) // 2])
    with Image.open(path) as lazy, pytest.raises(ImageError, match=r"half\.jpg is truncated or damaged"):
        open_image(lazy)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), kind=st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"]))
def test_a_damaged_file_gives_a_picture_or_an_image_error(data, kind):
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


def test_what_holds_no_picture_is_named():
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


# -- decompression bombs ------------------------------------------------------------------------------------


def test_a_bomb_is_not_decoded(monkeypatch):
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


# -- files and threads --------------------------------------------------------------------------------------


def test_no_file_stays_open(tmp_path, recwarn):
    warnings.simplefilter("always", ResourceWarning)
    paths = []
    for kind in ("png", "gif", "tiff", "webp", "jpg"):
        paths.append(tmp_path / f"a.{kind}")
        gradient().save(paths[-1])
    paths.append(tmp_path / "broken.png")
    paths[-1].write_bytes(paths[0].read_bytes()[:60])
    kept = []
    for path in paths:
        try:
            kept.append(open_image(path))
        except ImageError:
            assert path.name == "broken.png"
    descriptors = pathlib.Path("/proc/self/fd")
    if descriptors.exists():
        assert not [link for link in descriptors.iterdir() if str(tmp_path) in os.path.realpath(link)]
    gc.collect()
    assert not [warning for warning in recwarn if issubclass(warning.category, ResourceWarning)]
    assert len(kept) == 5


def test_eight_threads_decode_alike(tmp_path):
    sources = []
    for index, kind in enumerate(["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"] * 8):
        picture = gradient(40 + index, 30 + index % 7)
        path = tmp_path / f"{index}.{kind.lower()}"
        picture.save(path)
        sources.append(path if index % 2 else path.read_bytes())
    one_by_one = [open_image(source).tobytes() for source in sources]
    with ThreadPoolExecutor(8) as pool:
        assert [image.tobytes() for image in pool.map(open_image, sources)] == one_by_one


def test_threads_may_share_one_lazily_opened_image():
    data = encoded(gradient(400, 400), "PNG")
    expected = open_image(data).tobytes()
    for _ in range(20):
        lazy, barrier = Image.open(io.BytesIO(data)), threading.Barrier(8)

        def read(_: int, lazy: ImageFile.ImageFile = lazy, barrier: threading.Barrier = barrier) -> bytes:
            barrier.wait()
            return open_image(lazy).tobytes()

        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(read, range(8))) == {expected}
