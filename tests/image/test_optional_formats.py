"""HEIC, JPEG XL and camera raw files, with and without the packages that read them."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from raw_file import dng
from sample_images import encoded, gradient

from oneclip.errors import ImageError, ImageTooLargeError
from oneclip.image import open_image, optional_formats
from oneclip.image.jpeg_xl import jpeg_xl_size
from oneclip.installation import install_command

UPRIGHT = gradient(48, 32)
TURNED = UPRIGHT.transpose(Image.Transpose.ROTATE_90)  # as a rotated camera stores it, with orientation 6


def distance(found: Image.Image, expected: Image.Image) -> float:
    """Compute the mean difference of samples."""
    difference = np.asarray(found, np.int16) - np.asarray(expected.convert(found.mode), np.int16)
    return float(np.abs(difference).mean())


def exif(orientation: int) -> bytes:
    values = Image.Exif()
    values[0x0112] = orientation
    return values.tobytes()


def with_reader(module: str) -> None:
    """Register the package that writes these files with Pillow."""
    found = pytest.importorskip(module)
    if module == "pillow_heif":
        found.register_heif_opener()


@pytest.mark.parametrize(("module", "kind"), [("pillow_heif", "HEIF"), ("pillow_jxl", "JXL")])
def test_a_file_is_read_with_its_package(module: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_reader(module)
    data = encoded(UPRIGHT, kind, quality=95)
    assert distance(open_image(data), UPRIGHT) < 6
    with pytest.raises(ImageTooLargeError, match="48 x 32 pixels"):
        open_image(data, max_pixels=1000)


@pytest.mark.parametrize("size", [(48, 32), (8, 8), (300, 1), (1, 300), (1600, 900), (257, 513), (5000, 3)])
@pytest.mark.parametrize("use_container", [False, True])
def test_the_size_of_a_jpeg_xl_is_known_before_it_is_decoded(
    size: tuple[int, int], use_container: bool
) -> None:
    with_reader("pillow_jxl")
    data = encoded(Image.new("RGB", size), "JXL", effort=1, use_container=use_container, exif=exif(1))
    assert jpeg_xl_size(io.BytesIO(data)) == size
    assert jpeg_xl_size(io.BytesIO(encoded(UPRIGHT, "PNG"))) is None


def test_the_error_of_a_damaged_jpeg_xl_has_one_line() -> None:
    with_reader("pillow_jxl")  # its own error has two
    with pytest.raises(ImageError, match=r"it begins like JXL, but: \S[^\n]*$"):
        open_image(b"\xff\x0a" + bytes(20))


def test_a_jpeg_xl_of_too_many_pixels_is_not_decoded() -> None:
    header = b"\xff\x0a" + (0 | 3 << 1 | (1 << 30) - 1 << 3 | 1 << 33).to_bytes(8, "little")  # 2**30 squared
    with pytest.raises(ImageTooLargeError, match="1073741824 x 1073741824"):
        open_image(header)


def test_a_rotated_heic_is_rotated_once() -> None:
    with_reader("pillow_heif")
    found = open_image(encoded(TURNED, "HEIF", quality=95, exif=exif(6)))
    assert found.size == UPRIGHT.size
    assert distance(found, UPRIGHT) < 6


def test_jpeg_xl_uses_its_own_orientation_instead_of_exif(tmp_path: Path) -> None:
    with_reader("pillow_jxl")
    # stored upright, with an EXIF orientation to ignore
    data = encoded(UPRIGHT, "JXL", quality=95, exif=exif(6))
    found = open_image(data)
    assert found.size == UPRIGHT.size
    assert distance(found, UPRIGHT) < 6
    TURNED.save(tmp_path / "a.jpg", quality=95, exif=exif(6))
    with Image.open(tmp_path / "a.jpg") as lazy, pytest.warns(UserWarning, match="JPEG reconstruction"):
        lazy.save(tmp_path / "a.jxl")  # a repacked JPEG, whose EXIF orientation is used
    found = open_image(tmp_path / "a.jxl")
    assert found.size == UPRIGHT.size
    assert distance(found, UPRIGHT) < 6


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_preview_of_a_raw_file_is_read_upright(orientation: int) -> None:
    pytest.importorskip("rawpy")
    upright = gradient(640, 520)
    turn = {
        1: None,
        3: Image.Transpose.ROTATE_180,
        6: Image.Transpose.ROTATE_90,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright if turn[orientation] is None else upright.transpose(turn[orientation])
    found = open_image(dng(stored, orientation))
    assert found.size == upright.size
    assert distance(found, upright) < 3


def test_a_raw_file_without_a_large_preview_is_developed() -> None:
    pytest.importorskip("rawpy")
    for preview in (None, gradient(160, 120)):
        found = open_image(dng(preview, 6))
        assert (found.mode, found.size) == ("RGB", (48, 64))  # the sensor has 128 x 96 and was rotated


def test_a_damaged_raw_file_is_reported() -> None:
    pytest.importorskip("rawpy")
    with pytest.raises(ImageError, match="raw file that is damaged or of an unknown camera"):
        open_image(b"FUJIFILMCCD-RAW" + bytes(200))


@pytest.mark.parametrize(
    ("content", "extra"),
    [
        (b"\0\0\0\x1cftypheic" + bytes(40), "heif"),
        (b"\xff\x0a" + bytes(40), "heif"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40), "heif"),
        (dng(None), "raw"),  # Pillow would read a thumbnail or noise
        (b"FUJIFILMCCD-RAW" + bytes(40), "raw"),
        (b"\0\0\0\x18ftypcrx " + bytes(40), "raw"),
    ],
)
def test_a_missing_package_is_named(content: bytes, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(optional_formats, "import_module", missing)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    monkeypatch.delitem(Image.OPEN, "JXL", raising=False)
    monkeypatch.setattr(Image, "ID", [kind for kind in Image.ID if kind not in ("HEIF", "JXL")])
    with pytest.raises(ImageError, match=re.escape(install_command(extra))):
        open_image(io.BytesIO(content))


def test_the_thumbnail_of_a_raw_file_is_not_used_as_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """NEF, ARW and DNG are TIFF files whose first image is one of 160 x 120."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    tags = ImageFileDirectory_v2()
    tags[254] = 1  # NewSubfileType: of reduced resolution
    data = encoded(gradient(160, 120), "TIFF", tiffinfo=tags)
    with pytest.raises(ImageError, match="a camera raw file"):
        open_image(data)
