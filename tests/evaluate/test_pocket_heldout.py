"""The held-out sample of "pocket"."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import oneclip
from oneclip import zoo
from oneclip.errors import DataError
from oneclip.evaluate import EncoderAdapter, load_pocket_heldout
from oneclip.train.finetune import FinetuneCfg, has_bundled_reference, open_reference_task


def test_it_equals_the_sample_of_the_recipe() -> None:
    from recipes.pocket.evaluation_sets import read_sample

    task = load_pocket_heldout()
    assert len(task) == 500
    for style, expected in read_sample().items():
        found = next(one for one in task.tasks if one.name == style)
        assert tuple(found.texts) == tuple(dict.fromkeys(expected.captions))
        images = np.stack([np.asarray(image) for image in found.images])
        assert np.array_equal(images.transpose(0, 3, 1, 2), expected.images.numpy())


@pytest.mark.skipif(not zoo.pocket_path().is_file(), reason="pocket's weights are not in this checkout")
def test_pocket_has_a_recall_above_one_third() -> None:
    results = load_pocket_heldout()(EncoderAdapter(oneclip.load("pocket", device="cpu"), batch_size=100))
    assert results["mean"] > 1 / 3


def test_it_is_the_reference_of_pocket_only(pocket: Path, tmp_path: Path) -> None:
    assert has_bundled_reference("pocket")
    assert not has_bundled_reference("ViT-B/32")
    assert not has_bundled_reference("no such model")
    task = open_reference_task(FinetuneCfg(model="pocket", data="pairs.csv", out=tmp_path))
    assert task is not None
    assert len(task) == 500


def test_a_missing_sample_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("oneclip.evaluate.pocket_heldout.PATHS", (tmp_path / "gone.npz",))
    with pytest.raises(DataError, match=r"was not found .* name other reference data, or none"):
        load_pocket_heldout()
