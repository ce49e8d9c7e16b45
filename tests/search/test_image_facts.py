"""Facts about images: dates, cameras and places from EXIF, and the perceptual hash."""

from __future__ import annotations

import io
from dataclasses import astuple
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from PIL import Image

from oneclip.errors import ImageError
from oneclip.image import ImageHeader, decode
from oneclip.search.image_facts import COLUMNS, ImageFacts, open_with_facts, perceptual_hash, read_facts

GRAY = Image.new("L", (8, 8))
MAKE, MODEL, DATE = 0x010F, 0x0110, 0x0132
TAKEN, DIGITIZED = 0x9003, 0x9004
ZONE, ZONE_TAKEN, ZONE_DIGITIZED = 0x9010, 0x9011, 0x9012


def facts(
    tags: dict[int, Any] | None = None,
    photo_tags: dict[int, Any] | None = None,
    gps_tags: dict[int, Any] | None = None,
) -> ImageFacts:
    """Return the facts that EXIF directories give."""
    return read_facts(GRAY, ImageHeader(8, 8, "jpeg", tags or {}, photo_tags or {}, gps_tags or {}))


@cache
def drawing(seed: int) -> Image.Image:
    """Draw soft spots at random places, 320 x 240 pixels, with a little noise."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:240, :320]
    image = np.full((240, 320, 3), 128.0)
    for _ in range(25):
        spot = np.exp(
            -((x - random.integers(320)) ** 2 + (y - random.integers(240)) ** 2)
            / (2 * random.integers(8, 80) ** 2)
        )
        image += random.normal(0, 80, 3) * spot[..., None]
    return Image.fromarray((image + random.normal(0, 8, image.shape)).clip(0, 255).astype(np.uint8))


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def differences(one: int, other: int) -> int:
    return bin((one ^ other) & (2**64 - 1)).count("1")


# ---------------------------------------------------------------------------------------------------- EXIF


@pytest.mark.parametrize(
    ("tags", "photo_tags", "taken_at"),
    [
        ({}, {TAKEN: "2023:05:01 12:30:00"}, "2023-05-01T12:30:00"),
        ({}, {TAKEN: "2023:05:01 12:30:00", ZONE_TAKEN: "+02:00"}, "2023-05-01T12:30:00+02:00"),
        ({}, {TAKEN: "2023:05:01 12:30:00", ZONE_TAKEN: "-0330\0"}, "2023-05-01T12:30:00-03:30"),
        ({}, {TAKEN: "2023:05:01 12:30:00", ZONE_TAKEN: "Z"}, "2023-05-01T12:30:00+00:00"),
        ({}, {TAKEN: "2023:05:01 12:30:00", ZONE_TAKEN: "+99:00"}, "2023-05-01T12:30:00"),
        ({}, {TAKEN: "2023:05:01 12:30:00", ZONE_TAKEN: "   :  "}, "2023-05-01T12:30:00"),
        ({}, {TAKEN: "2023:05:01 12:30:00", ZONE: "+02:00"}, "2023-05-01T12:30:00"),  # of another date
        ({}, {TAKEN: "2023-05-01T12:30:00.25\0"}, "2023-05-01T12:30:00"),
        ({}, {TAKEN: b"2023:05:01 12:30:00\0"}, "2023-05-01T12:30:00"),
        ({}, {DIGITIZED: "2023:05:02 01:02:03", ZONE_DIGITIZED: "+01:00"}, "2023-05-02T01:02:03+01:00"),
        ({DATE: "2023:05:03 01:02:03"}, {ZONE: "+01:00"}, "2023-05-03T01:02:03+01:00"),
        (
            {DATE: "2023:05:03 01:02:03"},
            {TAKEN: "2023:05:01 00:00:00", DIGITIZED: "2023:05:02 00:00:00"},
            "2023-05-01T00:00:00",
        ),
        ({}, {TAKEN: "0000:00:00 00:00:00", DIGITIZED: "2023:05:02 01:02:03"}, "2023-05-02T01:02:03"),
        ({}, {TAKEN: "0000:00:00 00:00:00"}, None),
        ({}, {TAKEN: "    :  :     :  :  "}, None),
        ({}, {TAKEN: "2023:13:01 00:00:00"}, None),
        ({}, {TAKEN: "2023:02:29 00:00:00"}, None),
        ({}, {TAKEN: "2023:05:01 24:00:00"}, None),
        ({}, {TAKEN: "2023:05:01 12:30:000"}, None),
        ({}, {TAKEN: "0001:01:01 00:00:00"}, None),
        ({}, {TAKEN: 20230501}, None),
        ({}, {TAKEN: ("2023:05:01 12:30:00", "x")}, None),
        ({}, {}, None),
    ],
)
def test_the_date_is_that_of_the_photograph(
    tags: dict[int, Any], photo_tags: dict[int, Any], taken_at: str | None
) -> None:
    assert facts(tags, photo_tags).taken_at == taken_at


@pytest.mark.parametrize(
    ("make", "model", "camera"),
    [
        ("Google", "Pixel 7", "Google Pixel 7"),
        ("Canon", "Canon EOS 5D", "Canon EOS 5D"),
        ("NIKON CORPORATION", "NIKON D90", "NIKON D90"),
        ("EASTMAN KODAK COMPANY", "KODAK DX6490 ZOOM", "KODAK DX6490 ZOOM"),
        ("LG Electronics", "LG-H870", "LG-H870"),
        ("OLYMPUS\0\0\0", "  E-M5   \0garbage", "OLYMPUS E-M5"),
        ("SONY", "", "SONY"),
        ("", "DSC", "DSC"),
        (None, "DSC\n\x07 1", "DSC 1"),
        (b"Pentax\0", b"K-\xff", "Pentax K-\ufffd"),
        ("  ", "\0", None),
        (17, ("a", "b"), None),
        ("x" * 5000, "y", "x" * 100),
    ],
)
def test_the_camera_is_cleaned_and_its_maker_is_not_repeated(
    make: Any, model: Any, camera: str | None
) -> None:
    assert facts({MAKE: make, MODEL: model}).camera == camera


BERLIN = {1: "N", 2: (52.0, 31.0, 12.5), 3: "E", 4: (13.0, 24.0, 36.0)}  # 52° 31' 12.5" and 13° 24' 36"


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({}, (52 + 31 / 60 + 12.5 / 3600, 13.41)),
        ({1: "S", 3: "W\0"}, (-52 - 31 / 60 - 12.5 / 3600, -13.41)),
        ({1: b"s\0"}, (-52 - 31 / 60 - 12.5 / 3600, 13.41)),
        ({2: (52.5, 0.0, 0.0), 4: (13.5,)}, (52.5, 13.5)),
        ({2: 52.5}, (52.5, 13.41)),
        ({2: (90.0, 0.0, 0.0), 4: (180.0, 0.0, 0.0)}, (90, 180)),
        ({2: (90.0, 0.0, 0.1)}, (None, None)),
        ({4: (181.0, 0.0, 0.0)}, (None, None)),
        ({2: (52.0, float("nan"), 0.0)}, (None, None)),  # Pillow's value of 1/0
        ({2: (float("inf"), 0.0, 0.0)}, (None, None)),
        ({2: (-52.0, 31.0, 0.0)}, (None, None)),
        ({2: ()}, (None, None)),
        ({2: "north"}, (None, None)),
        ({1: ""}, (None, None)),
        ({1: "E"}, (None, None)),
        ({1: None}, (None, None)),
        ({4: None}, (None, None)),
        ({2: (0.0, 0.0, 0.0), 4: (0.0, 0.0, 0.0)}, (None, None)),  # no fix
        ({2: (0.0, 0.0, 0.0)}, (0, 13.41)),
    ],
)
def test_the_place_is_in_degrees_and_both_coordinates_or_none(changes: dict[int, Any], place: Any) -> None:
    found = facts(gps_tags=BERLIN | changes)
    assert (found.latitude, found.longitude) == pytest.approx(place, abs=1e-7)


def test_a_rational_without_a_denominator_is_unknown() -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8825).update(BERLIN)
    data = saved(GRAY, "JPEG", exif=exif)
    seconds = (25).to_bytes(4, "big") + (2).to_bytes(4, "big")  # 12.5, as Pillow writes it
    order = "big" if seconds in data else "little"
    seconds = (25).to_bytes(4, order) + (2).to_bytes(4, order)
    assert open_with_facts(data)[1].latitude == pytest.approx(52.5201389)
    damaged = data.replace(seconds, seconds[:4] + bytes(4))
    assert damaged != data
    assert open_with_facts(damaged)[1].latitude is None


# -------------------------------------------------------------------------------------------------------- from a file


def test_all_facts_come_from_one_file(monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[MAKE], exif[MODEL] = 6, "Google", "Pixel 7"
    exif.get_ifd(0x8769).update({TAKEN: "2023:05:01 12:30:00", ZONE_TAKEN: "+02:00"})
    exif.get_ifd(0x8825).update(BERLIN)
    opened = []
    identify = decode.identify
    monkeypatch.setattr(decode, "identify", lambda *args: opened.append(1) or identify(*args))
    image, found = open_with_facts(saved(drawing(0), "JPEG", exif=exif), min_size=lambda _size: (60, 60))
    assert image.size == (60, 80)
    assert astuple(found)[:-1] == (
        *(240, 320, "jpeg", "2023-05-01T12:30:00+02:00", "Google Pixel 7"),
        *(pytest.approx(52.5201389), pytest.approx(13.41)),
    )
    assert len(opened) == 1  # the file was decoded once
    assert tuple(vars(found)) == COLUMNS  # in this order


def test_an_image_that_is_no_file_is_refused() -> None:
    with pytest.raises(ImageError, match="Image is not an image file; pass a path"):
        open_with_facts(GRAY)


# ---------------------------------------------------------------------------------------------------- perceptual hash

# imagehash 4.3.2: str(imagehash.phash(drawing(seed)))
PUBLISHED = ("c2b92e59661f61e2", "b2360dc979725e0b", "a60adb9525ad1ad3", "ae6d53d2c9a431f0")


def signed(digits: str) -> int:
    return int.from_bytes(bytes.fromhex(digits), "big", signed=True)


@pytest.mark.parametrize("seed", range(len(PUBLISHED)))
def test_the_hash_is_that_of_the_published_package_up_to_resampling(seed: int) -> None:
    assert differences(perceptual_hash(drawing(seed)), signed(PUBLISHED[seed])) <= 4


@pytest.mark.parametrize(
    "copy",
    [
        lambda image: Image.open(io.BytesIO(saved(image, "JPEG", quality=30))),
        lambda image: Image.open(io.BytesIO(saved(image.resize((160, 120)), "WEBP", quality=50))),
        lambda image: image.resize((1600, 1200), Image.Resampling.BICUBIC),
        lambda image: image.resize((999, 777), Image.Resampling.BICUBIC),
        lambda image: image.resize((80, 60), Image.Resampling.LANCZOS),
        lambda image: image.convert("L"),
        lambda image: image.convert("CMYK"),
        lambda image: image.convert("RGBA"),
        lambda image: image.quantize(256, Image.Quantize.FASTOCTREE),
        lambda image: image.point(lambda value: value * 0.7 + 40),
    ],
)
def test_copies_have_nearly_the_same_hash(copy: Any) -> None:
    for seed in range(4):
        assert differences(perceptual_hash(drawing(seed)), perceptual_hash(copy(drawing(seed)))) <= 6


def test_different_images_have_different_hashes() -> None:
    hashes = [perceptual_hash(drawing(seed)) for seed in range(8)]
    found = [differences(one, other) for one, other in combinations(hashes, 2)]
    assert min(found) > 16
    assert 28 < np.mean(found) < 36  # random bits differ in half of 64
    assert any(value < 0 for value in hashes)
    assert all(-(2**63) <= value < 2**63 for value in hashes)


def test_blank_images_of_any_gray_have_the_same_hash() -> None:
    assert len({perceptual_hash(Image.new("L", (100, 70), gray)) for gray in (1, 77, 200, 255)}) == 1


@pytest.mark.parametrize("color", [0, 255])
def test_a_drawing_on_transparent_ground_is_seen(color: int) -> None:
    shape = drawing(3).convert("L").point(lambda value: 255 * (value > 128))
    solid = Image.new("L", shape.size, color)
    on_nothing = Image.merge("LA", (solid, shape))
    on_paper = Image.composite(solid, Image.new("L", shape.size, 255 - color), shape)
    assert differences(perceptual_hash(on_nothing), perceptual_hash(on_paper)) <= 2


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (3, 2), (33, 31), (513, 511), (600, 20)])
def test_images_of_any_size_have_a_hash(size: tuple[int, int]) -> None:
    assert isinstance(perceptual_hash(drawing(0).resize(size)), int)
