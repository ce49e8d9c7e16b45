"""The sample of held-out pictures that "pocket" is measured on, and what says that it belongs to a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import oneclip
from oneclip import zoo
from oneclip.errors import DataError
from oneclip.evaluate import OfEncoder, pocket_sample
from oneclip.train.finetune import FinetuneCfg, before_task, has_a_sample


def test_it_is_what_the_recipe_measures() -> None:
    from recipes.pocket.evaluation_sets import read_sample

    task = pocket_sample()
    assert len(task) == 500
    for style, expected in read_sample().items():
        found = next(one for one in task.tasks if one.name == style)
        assert tuple(found.captions) == tuple(dict.fromkeys(expected.captions))
        pictures = np.stack([np.asarray(picture) for picture in found.pictures])
        assert np.array_equal(pictures.transpose(0, 3, 1, 2), expected.images.numpy())


@pytest.mark.skipif(not zoo.pocket_path().is_file(), reason="pocket's weights are not in this checkout")
def test_pocket_finds_more_than_a_third_of_it_at_once() -> None:
    results = pocket_sample()(OfEncoder(oneclip.load("pocket", device="cpu"), batch_size=100))
    assert results["mean"] > 1 / 3


def test_it_belongs_to_pocket_alone(pocket: Path, tmp_path: Path) -> None:
    assert has_a_sample("pocket")
    assert not has_a_sample("ViT-B/32")
    assert not has_a_sample("no such model")
    task = before_task(FinetuneCfg(model="pocket", data="pairs.csv", out=tmp_path))
    assert task is not None
    assert len(task) == 500


def test_where_it_is_missing_other_data_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("oneclip.evaluate.pocket_heldout.PLACES", (tmp_path / "gone.npz",))
    with pytest.raises(DataError, match=r"was not found .* name data from before, or none"):
        pocket_sample()
