"""`open_image`: sources, orientation, bit depths, animations, threads."""

from __future__ import annotations

import gc
import io
import os
import pathlib
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageFile
from sample_images import encoded, gradient

from oneclip.errors import ImageError
from oneclip.image import open_image


def test_every_kind_of_source_gives_the_same_image(tmp_path):
    image = gradient()
    data = encoded(image, "PNG")
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
        image,
        np.asarray(image),
    ]
    with path.open("rb") as file:
        for form in [*forms, file]:
            found = open_image(form)
            assert found.mode == "RGB"
            assert found.tobytes() == image.tobytes()
        assert not file.closed


def test_a_path_with_backslashes_finds_the_file(tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    gradient().save(tmp_path / "images" / "a.png")
    monkeypatch.chdir(tmp_path)
    assert open_image("images\\a.png").size == (48, 32)
    assert open_image(pathlib.PureWindowsPath("images", "a.png")).size == (48, 32)


def test_a_stream_is_read_from_its_beginning_and_need_not_seek():
    data = encoded(gradient(), "PNG")
    at_its_end = io.BytesIO(data)
    at_its_end.seek(0, io.SEEK_END)
    assert open_image(at_its_end).size == (48, 32)
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    with open(reading, "rb") as pipe:
        assert open_image(pipe).size == (48, 32)


def test_a_pil_image_is_loaded_and_returned_without_rotation():
    exif = Image.Exif()
    exif[0x0112] = 6
    lazy = Image.open(io.BytesIO(encoded(gradient(), "JPEG", exif=exif)))
    assert open_image(lazy) is lazy
    assert lazy.size == (48, 32)
    assert not lazy.tile


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
        6: np.rot90(np.asarray(upright), 1),  # rotated by the camera; 90 degrees clockwise undo it
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
    assert found.getexif().get(0x0112, 1) == 1  # so that no other program rotates it again


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_an_image_with_damaged_exif_is_opened():
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


def test_float_tiff_is_scaled_if_its_white_level_is_known():
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
        image = gradient().convert(mode)
        found = open_image(encoded(image, kind))
        assert found.mode == mode
        assert (
            found.convert("RGB").tobytes()
            == Image.open(io.BytesIO(encoded(image, kind))).convert("RGB").tobytes()
        )


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


def test_eight_threads_decode_as_one(tmp_path):
    sources = []
    for index, kind in enumerate(["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"] * 8):
        image = gradient(40 + index, 30 + index % 7)
        path = tmp_path / f"{index}.{kind.lower()}"
        image.save(path)
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
