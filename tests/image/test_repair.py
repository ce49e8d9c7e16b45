"""Images with damaged metadata or a missing end: which are repaired, and which are refused."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from sample_images import encoded, gradient

from oneclip.errors import ConfigError, ImageError
from oneclip.image import check_header, open_image

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def segment(marker: int, data: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(data) + 2) + data


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(3 << 20))),  # more than Pillow accepts
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(3 << 20))),
        chunk(b"iCCP", b"name\0\7" + b"no profile"),  # compressed in an unknown way
        chunk(b"pHYs", b"12"),
        chunk(b"tIME", b"now")[:-4] + b"\0\0\0\0",  # a wrong checksum
    ],
)
def test_a_png_with_damaged_metadata_is_opened(extra: bytes, tmp_path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(gradient(48, 32), "PNG", exif=exif)
    damaged = data[:33] + extra + data[33:]  # after the header
    with pytest.raises((ValueError, SyntaxError, OSError, struct.error)):
        Image.open(io.BytesIO(damaged)).load()
    assert open_image(damaged).tobytes() == open_image(data).tobytes()  # rotated by its orientation
    (tmp_path / "a.png").write_bytes(damaged)
    check_header(str(tmp_path / "a.png"))


@pytest.mark.parametrize("extra", [segment(0xEE, b"Adobe\0"), segment(0xE0, b"JFIF\0\1")])
def test_a_jpeg_with_damaged_metadata_is_opened(extra: bytes) -> None:
    data = encoded(gradient(48, 32), "JPEG")
    damaged = data[:2] + extra + data[2:]
    with pytest.raises((ValueError, SyntaxError, OSError, struct.error)):
        Image.open(io.BytesIO(damaged)).load()
    assert open_image(damaged).tobytes() == open_image(data).tobytes()


def test_pixels_of_a_png_are_still_checked() -> None:
    data = bytearray(encoded(NOISE, "PNG"))
    data[-40] ^= 1
    with pytest.raises(ImageError, match="truncated or damaged"):
        open_image(bytes(data))


JPEGS = [{}, {"progressive": True}, {"restart_marker_blocks": 3}, {"subsampling": 0}, {"quality": 30}]


@pytest.mark.parametrize("options", JPEGS)
@pytest.mark.parametrize("image", [NOISE, gradient(47, 33), gradient(70, 40, "L")])
def test_a_jpeg_may_lack_its_end_marker_but_no_samples(
    options: dict[str, object], image: Image.Image
) -> None:
    data = encoded(image, "JPEG", **options)
    whole = open_image(data).tobytes()
    for missing in (1, 2):
        assert open_image(data[:-missing]).tobytes() == whole
    for missing in (4, 5, 9, 20, 60):
        with pytest.raises(ImageError, match="truncated"):
            open_image(data[:-missing])


def test_a_progressive_jpeg_without_its_last_scans_is_truncated() -> None:
    data = encoded(NOISE, "JPEG", progressive=True)
    last = data.rfind(b"\xff\xda")
    tables = data.rfind(b"\xff\xc4", 0, last)  # its Huffman table, after the previous scan
    with pytest.raises(ImageError, match="truncated"):
        open_image(data[:tables])
    assert open_image(data[:tables], truncated="accept").size == NOISE.size


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF"])
def test_the_rest_of_a_truncated_file_is_accepted_on_request(kind: str) -> None:
    data = encoded(NOISE, kind)
    half = data[: len(data) * 3 // 4]
    with pytest.raises(ImageError, match=r"accept truncated images \(--truncated accept\)"):
        open_image(half)
    found, whole = open_image(half, truncated="accept").convert("RGB"), open_image(data).convert("RGB")
    assert found.size == whole.size
    rows = (0, 36, 56, 40) if kind == "BMP" else (0, 0, 56, 8)  # BMP stores the last row first
    assert found.crop(rows).tobytes() == whole.crop(rows).tobytes()
    assert found.tobytes() != whole.tobytes()


def test_a_file_without_any_pixel_is_refused_in_any_case() -> None:
    data = encoded(NOISE, "PNG")
    with pytest.raises(ImageError, match="truncated"):
        open_image(data[: data.index(b"IDAT") + 6], truncated="accept")


def test_an_unknown_value_of_truncated_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected 'refuse' or 'accept'"):
        open_image(b"", truncated="perhaps")
