"""A folder of pictures and a table to batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from oneclip.config import PreprocessCfg
from oneclip.errors import ConfigError, DataError
from oneclip.image import Augment
from oneclip.pairs import Pairs
from oneclip.train.data import FolderTable


@pytest.fixture
def pairs(tmp_path: Path) -> Pairs:
    for n in range(10):
        pixels = np.random.default_rng(n).integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{n}.png")
    return Pairs("pairs.csv", [f"{n}.png" for n in range(10)], [str(n) for n in range(10)])


def source(pairs: Pairs, folder: Path, batch_size: int = 4, **options: object) -> FolderTable:
    return FolderTable(pairs, folder, batch_size, Augment(PreprocessCfg(size=8)), **options)  # type: ignore[arg-type]


def test_a_batch_is_the_same_whenever_it_is_asked_for(pairs: Pairs, tmp_path: Path) -> None:
    first, second = source(pairs, tmp_path), source(pairs, tmp_path, threads=1)
    late = second.batch(3)
    for step in (0, 1, 2):
        first.batch(step)
    early = first.batch(3)
    assert early.texts == late.texts
    assert torch.equal(early.images, late.images)
    assert early.images.shape == (4, 3, 8, 8)


def test_an_epoch_shows_no_pair_twice_and_the_next_has_another_order(pairs: Pairs, tmp_path: Path) -> None:
    table = source(pairs, tmp_path, batch_size=5)
    epochs = [[*table.batch(2 * epoch).texts, *table.batch(2 * epoch + 1).texts] for epoch in (0, 1)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == pairs.captions
    assert epochs[0] != epochs[1]


def test_seeds_change_order_and_augmentation(pairs: Pairs, tmp_path: Path) -> None:
    one, other = (source(pairs, tmp_path, batch_size=10, seed=seed).batch(0) for seed in (0, 1))
    assert one.texts != other.texts
    assert not torch.equal(one.images[one.texts.index("3")], other.images[other.texts.index("3")])


def test_a_broken_picture_is_left_out_and_named(pairs: Pairs, tmp_path: Path) -> None:
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:60])
    table = source(pairs, tmp_path, batch_size=10)
    batch = table.batch(0)
    assert len(batch.images) == len(batch.texts) == 9
    assert "3" not in batch.texts
    assert list(table.skipped) == ["3.png"]
    assert "3.png" in table.skipped["3.png"]


def test_a_batch_of_broken_pictures_only_is_an_error(pairs: Pairs, tmp_path: Path) -> None:
    for path in tmp_path.glob("*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(DataError, match="none of the 4 pictures of batch 0 can be read"):
        source(pairs, tmp_path).batch(0)


def test_missing_files_are_named_with_the_folder_unless_they_may_be_skipped(
    pairs: Pairs, tmp_path: Path
) -> None:
    (tmp_path / "7.png").unlink()
    with pytest.raises(DataError, match=r"1 of 10 pictures of pairs\.csv are not in .*: 7\.png"):
        source(pairs, tmp_path)
    table = source(pairs, tmp_path, skip_missing=True)
    assert len(table.pairs) == 9
    assert list(table.skipped) == ["7.png"]
    with pytest.raises(DataError, match="10 of 10 pictures"):
        source(pairs, tmp_path / "elsewhere", skip_missing=True)


def test_a_batch_larger_than_the_table_is_refused(pairs: Pairs, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a batch size from 1 to 10"):
        source(pairs, tmp_path, batch_size=11)
