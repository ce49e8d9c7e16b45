"""Tables of image paths and captions as training data."""

from __future__ import annotations

from pathlib import Path

import fsspec
from PIL import Image
from tars import png

from oneclip.config import AugmentCfg, PreprocessCfg
from oneclip.errors import ImageError
from oneclip.hub.pairs import CaptionPairs
from oneclip.image import Augment, open_image
from oneclip.train.data import BatchLoader, TableDataset


def test_rows_with_the_same_image_may_be_one_sample(pairs: CaptionPairs, tmp_path: Path) -> None:
    both = CaptionPairs("pairs.csv", pairs.images * 2, [*pairs.captions, *(f"also {n}" for n in range(10))])
    rows, combined = TableDataset(both, tmp_path), TableDataset(both, tmp_path, by_image=True)
    assert (len(rows), len(combined)) == (20, 10)
    assert combined.read(3).captions == ["3", "also 3"]
    assert combined.name(3) == "3.png"


def test_backslashes_separate_folders_everywhere(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c.png").write_bytes(png(0))
    samples = TableDataset(CaptionPairs("pairs.csv", ["a\\b\\c.png"], ["a cat"]), tmp_path)
    assert open_image(samples.read(0).image).size == (10, 12)


def test_an_image_may_be_an_address(tmp_path: Path) -> None:
    fsspec.filesystem("memory").pipe("/images/0.png", png(0))
    samples = TableDataset(
        CaptionPairs("pairs.csv", ["memory://images/0.png", "memory://no.png"], ["0", "1"]), tmp_path
    )
    found, missing = samples.read_many([0, 1])
    assert not isinstance(found, Exception)
    assert found.image == png(0)
    assert isinstance(missing, ImageError)


def test_images_are_rotated_by_their_exif_orientation(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 20), "red")
    image.paste((0, 0, 255), (20, 0, 40, 20))  # red to the left, blue to the right
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate clockwise: red is then on top
    image.save(tmp_path / "a.jpg", exif=exif, quality=95)
    samples = TableDataset(CaptionPairs("pairs.csv", ["a.jpg"], ["colours"]), tmp_path)
    whole = AugmentCfg(scale=(1.0, 1.0), ratio=(0.5, 0.5))
    batch = BatchLoader(samples, 1, Augment(PreprocessCfg(size=8), whole), threads=1).batch(0)
    red, blue = batch.images[0, 0], batch.images[0, 2]
    assert (red[:3] > blue[:3]).all()
    assert (red[5:] < blue[5:]).all()
