"""Rows of a table to samples."""

from __future__ import annotations

from pathlib import Path

import fsspec
from PIL import Image
from tars import png

from oneclip.config import PreprocessCfg
from oneclip.errors import ImageError
from oneclip.hub.pairs import Pairs
from oneclip.image import Augment, open_image
from oneclip.image.augment import AugmentCfg
from oneclip.train.data import Loader, TableSamples


def test_rows_of_one_picture_may_be_one_sample(pairs: Pairs, tmp_path: Path) -> None:
    both = Pairs("pairs.csv", pairs.pictures * 2, [*pairs.captions, *(f"also {n}" for n in range(10))])
    rows, pictures = TableSamples(both, tmp_path), TableSamples(both, tmp_path, by_picture=True)
    assert (len(rows), len(pictures)) == (20, 10)
    assert pictures.read(3).captions == ["3", "also 3"]
    assert pictures.name(3) == "3.png"


def test_backslashes_separate_folders_everywhere(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c.png").write_bytes(png(0))
    samples = TableSamples(Pairs("pairs.csv", ["a\\b\\c.png"], ["a cat"]), tmp_path)
    assert open_image(samples.read(0).picture).size == (10, 12)


def test_a_picture_may_be_an_address(tmp_path: Path) -> None:
    fsspec.filesystem("memory").pipe("/pictures/0.png", png(0))
    samples = TableSamples(
        Pairs("pairs.csv", ["memory://pictures/0.png", "memory://no.png"], ["0", "1"]), tmp_path
    )
    found, missing = samples.read_run([0, 1])
    assert not isinstance(found, Exception)
    assert found.picture == png(0)
    assert isinstance(missing, ImageError)


def test_a_picture_stands_upright_whatever_its_exif_says(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 20), "red")
    image.paste((0, 0, 255), (20, 0, 40, 20))  # red to the left, blue to the right
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: red comes on top
    image.save(tmp_path / "a.jpg", exif=exif, quality=95)
    samples = TableSamples(Pairs("pairs.csv", ["a.jpg"], ["colours"]), tmp_path)
    whole = AugmentCfg(scale=(1.0, 1.0), ratio=(0.5, 0.5))
    batch = Loader(samples, 1, Augment(PreprocessCfg(size=8), whole), threads=1).batch(0)
    red, blue = batch.images[0, 0], batch.images[0, 2]
    assert (red[:3] > blue[:3]).all()
    assert (red[5:] < blue[5:]).all()
