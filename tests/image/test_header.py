"""Headers that `open_image` hands out: the size of the whole image, upright, and its EXIF metadata."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from raw_file import dng
from sample_images import encoded, gradient
from tiff_file import Tiff

from oneclip.image import ImageHeader, open_image

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8))


def header(data: bytes, **options: Any) -> ImageHeader:
    """Return the header that is handed out last."""
    found: list[ImageHeader] = []
    open_image(data, inspect=found.append, **options)
    return found[-1]


def exif(orientation: int = 1) -> Image.Exif:
    values = Image.Exif()
    values[0x0112], values[0x010F] = orientation, "Maker"
    return values


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "JPEG2000", "GIF", "BMP", "ICO"])
def test_the_size_and_format_are_those_of_the_file(kind: str) -> None:
    if kind not in Image.SAVE and (Image.init(), kind not in Image.SAVE)[1]:
        pytest.skip(f"this Pillow cannot write {kind}")
    found = header(encoded(gradient(48, 32), kind, **({"sizes": [(48, 32)]} if kind == "ICO" else {})))
    assert (found.width, found.height, found.format) == (48, 32, kind.lower())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("min_size", [None, lambda _size: (8, 8)])
def test_the_size_of_a_jpeg_is_upright_and_whole_even_if_it_is_shrunk(
    orientation: int, min_size: Any
) -> None:
    data = encoded(gradient(480, 320), "JPEG", exif=exif(orientation))
    image = open_image(data, min_size=min_size)
    found = header(data, min_size=min_size)
    assert (image.width < 480) == (min_size is not None or orientation > 4)
    assert (found.width, found.height) == ((320, 480) if orientation > 4 else (480, 320))


@pytest.mark.parametrize(("module", "kind"), [("pillow_heif", "HEIF"), ("pillow_jxl", "JXL")])
def test_formats_of_other_packages_have_headers(module: str, kind: str) -> None:
    package = pytest.importorskip(module)
    if module == "pillow_heif":
        package.register_heif_opener()
    data = encoded(gradient(48, 32), kind, exif=exif().tobytes())
    found = header(data)
    assert (found.width, found.height, found.format) == (48, 32, kind.lower())
    assert found.tags[0x010F] == "Maker"


@pytest.mark.parametrize(("orientation", "size"), [(1, (1024, 768)), (6, (768, 1024)), (3, (1024, 768))])
@pytest.mark.parametrize("preview", [gradient(720, 540), None])
def test_the_size_of_a_raw_file_is_that_of_the_sensor(
    orientation: int, size: tuple[int, int], preview: Image.Image | None
) -> None:
    pytest.importorskip("rawpy")
    found = header(dng(preview, orientation, (1024, 768)))
    assert (found.width, found.height, found.format) == (*size, "raw")
    assert found.tags[0x010F] == "Test"  # the maker


def test_a_repaired_file_has_its_header() -> None:
    data = encoded(NOISE, "JPEG", exif=exif(6))
    found = header(data[:-2])  # without its end marker
    assert (found.width, found.height, found.tags[0x010F]) == (40, 56, "Maker")


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_truncated_file_that_is_accepted_has_its_header(kind: str) -> None:
    data = encoded(NOISE, kind)
    found = header(data[: len(data) // 2], truncated="accept")
    assert (found.width, found.height) == NOISE.size


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_metadata_of_each_format_is_read(kind: str) -> None:
    values = exif()
    values.get_ifd(0x8769)[0x9003] = "2023:05:01 12:30:00"
    values.get_ifd(0x8825)[1] = "N"
    found = header(encoded(gradient(), kind, exif=values))
    assert (found.tags[0x010F], found.photo_tags[0x9003], found.gps_tags[1]) == (
        "Maker",
        "2023:05:01 12:30:00",
        "N",
    )


@pytest.mark.parametrize(("orientation", "size"), [(1, (48, 32)), (6, (32, 48))])
def test_the_metadata_of_a_tiff_is_read(orientation: int, size: tuple[int, int]) -> None:
    file = Tiff()
    photo = file.directory({0x9003: (2, b"2023:05:01 12:30:00\0")})
    place = file.directory({1: (2, b"N\0"), 2: (5, [(52, 1), (31, 1), (25, 2)])})
    samples = file.put(bytes(range(48)) * 32)
    main = {
        256: (4, [48]), 257: (4, [32]), 258: (3, [8]), 259: (3, [1]), 262: (3, [1]), 273: (4, [samples]),
        274: (3, [orientation]), 277: (3, [1]), 278: (4, [32]), 279: (4, [48 * 32]),
        0x8769: (4, [photo]), 0x8825: (4, [place]),
    }  # fmt: skip
    found = header(file.finish(file.directory(main)))
    assert (found.width, found.height) == size
    assert found.photo_tags == {0x9003: "2023:05:01 12:30:00"}
    assert found.gps_tags == {1: "N", 2: (52, 31, 12.5)}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_metadata_never_prevents_decoding() -> None:
    values = exif()
    values.get_ifd(0x8769)[0x9003] = "2023:05:01 12:30:00"
    values.get_ifd(0x8825)[2] = (52.0, 31.0, 12.5)
    whole = values.tobytes()
    random = np.random.default_rng(0)
    for cut in range(len(whole)):
        damaged = bytearray(whole)
        damaged[random.integers(6, len(whole))] ^= int(random.integers(1, 256))
        for block in (whole[:cut], bytes(damaged)):
            buffer = io.BytesIO()
            gradient().save(buffer, "JPEG", exif=block)
            found = header(buffer.getvalue())
            assert {found.width, found.height} == {48, 32}


def test_an_image_that_is_no_file_has_no_header() -> None:
    found: list[ImageHeader] = []
    open_image(gradient(), inspect=found.append)
    open_image(np.zeros((4, 4), np.uint8), inspect=found.append)
    assert found == []
