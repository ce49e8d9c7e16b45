"""Batches on their way from a source to the model."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest
import torch

import oneclip
from oneclip.config import PreprocessCfg
from oneclip.errors import ConfigError
from oneclip.image import Preprocess
from oneclip.train import Batch, Prefetcher, Prepare
from oneclip.train.data.batches import crop_to_longest


def numbered(step: int) -> Batch:
    return Batch(torch.full((1, 3, 2, 2), step), torch.full((1, 1), step))


def test_ids_are_cut_after_the_longest_caption() -> None:
    ids = torch.tensor([[7, 5, 9, 0, 0, 0], [7, 0, 5, 9, 0, 0]])  # an id 0 within a caption stays
    assert crop_to_longest(ids).tolist() == [[7, 5, 9, 0], [7, 0, 5, 9]]
    assert crop_to_longest(torch.zeros(2, 5, dtype=torch.long)).shape == (2, 1)


def test_ids_are_cut_only_where_that_is_said_to_be_exact() -> None:
    batch = Batch(torch.zeros(1, 3, 2, 2), torch.tensor([[7, 9, 0, 0]]))
    assert Prepare().on_host(batch).texts.shape == (1, 4)
    assert Prepare(crop_texts=True).on_host(batch).texts.shape == (1, 2)


def test_a_loaded_model_says_how_its_batches_are_prepared() -> None:
    clip = oneclip.load("pocket", device="cpu")
    clip.preprocess = Preprocess(replace(clip.preprocess.cfg, mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1.0)))
    prepare = Prepare.of(clip)
    white = Batch(torch.full((1, 3, 2, 2), 255, dtype=torch.uint8), ["a cat"])
    on_host = prepare.on_host(white)
    assert on_host.texts.shape == (1, 4)  # start, two words, end: pocket's text tower is causal
    images = prepare.on_device(on_host, torch.device("cpu")).images
    torch.testing.assert_close(images[0, :, 0, 0], torch.tensor([2.0, 1.0, 0.5]))


def test_of_uint8_pictures_nothing_is_guessed() -> None:
    batch = Batch(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), torch.ones(1, 1, dtype=torch.long))
    with pytest.raises(ConfigError, match=r"nothing says how the model normalises them.*Prepare\.of\(clip\)"):
        Prepare().on_device(batch, torch.device("cpu"))


def test_uint8_pictures_are_normalised_and_floats_left_alone() -> None:
    prepare = Prepare(preprocess=PreprocessCfg(mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1.0)))
    images = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    ids = torch.ones(1, 1, dtype=torch.long)
    normalised = prepare.on_device(Batch(images, ids), torch.device("cpu")).images
    torch.testing.assert_close(normalised[0, :, 0, 0], torch.tensor([2.0, 1.0, 0.5]))
    floats = torch.rand(1, 3, 2, 2)
    assert torch.equal(prepare.on_device(Batch(floats, ids), torch.device("cpu")).images, floats)


def test_batches_are_made_ahead_in_threads_and_none_past_the_last() -> None:
    made = []

    def make(step: int) -> Batch:
        made.append((step, threading.current_thread().name))
        return numbered(step)

    with Prefetcher(make, last=4, ahead=2, workers=2) as batches:
        assert int(batches.get(0).texts) == 0
        time.sleep(0.2)
        assert {step for step, _ in made} == {0, 1, 2}
        assert [int(batches.get(step).texts) for step in (1, 2, 3)] == [1, 2, 3]
    assert sorted(step for step, _ in made) == [0, 1, 2, 3]
    assert all(name.startswith("oneclip-batch") for _, name in made)


def test_an_error_in_a_thread_comes_out_where_the_batch_is_asked_for() -> None:
    def make(step: int) -> Batch:
        if step == 1:
            raise ValueError("batch 1 is broken")
        return numbered(step)

    with Prefetcher(make, last=3) as batches:
        batches.get(0)
        with pytest.raises(ValueError, match="batch 1 is broken"):
            batches.get(1)
