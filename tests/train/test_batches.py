"""Preparation and prefetching of batches."""

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
from oneclip.model.text_pooling import crop_padding
from oneclip.train import Batch, Prefetcher, Prepare


def numbered(step: int) -> Batch:
    return Batch(torch.full((1, 3, 2, 2), step), torch.full((1, 1), step))


def test_ids_are_cut_after_the_longest_caption() -> None:
    ids = torch.tensor([[7, 5, 9, 0, 0, 0], [7, 0, 5, 9, 0, 0]])  # an id 0 within a caption stays
    assert crop_padding(ids).tolist() == [[7, 5, 9, 0], [7, 0, 5, 9]]
    assert crop_padding(torch.zeros(2, 5, dtype=torch.long)).shape == (2, 1)


def test_ids_are_cut_only_on_request() -> None:
    batch = Batch(torch.zeros(1, 3, 2, 2), torch.tensor([[7, 9, 0, 0]]))
    assert Prepare().on_host(batch).texts.shape == (1, 4)
    assert Prepare(crop_texts=True).on_host(batch).texts.shape == (1, 2)


def test_batches_are_prepared_for_a_loaded_model() -> None:
    model = oneclip.load("pocket", device="cpu")
    model.preprocess = Preprocess(replace(model.preprocess.cfg, mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1.0)))
    prepare = Prepare.for_model(model)
    white = Batch(torch.full((1, 3, 2, 2), 255, dtype=torch.uint8), ["a cat"])
    on_host = prepare.on_host(white)
    assert on_host.texts.shape == (1, 4)  # start, two words, end: pocket's text tower is causal
    images = prepare.on_device(on_host, torch.device("cpu")).images
    torch.testing.assert_close(images[0, :, 0, 0], torch.tensor([2.0, 1.0, 0.5]))


def test_uint8_images_without_a_preprocess_raise() -> None:
    batch = Batch(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), torch.ones(1, 1, dtype=torch.long))
    with pytest.raises(ConfigError, match=r"does not know the model.s mean.*Prepare\.for_model\(model\)"):
        Prepare().on_device(batch, torch.device("cpu"))


def test_uint8_images_are_normalized_and_floats_are_unchanged() -> None:
    prepare = Prepare(preprocess=PreprocessCfg(mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1.0)))
    images = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    ids = torch.ones(1, 1, dtype=torch.long)
    normalized = prepare.on_device(Batch(images, ids), torch.device("cpu")).images
    torch.testing.assert_close(normalized[0, :, 0, 0], torch.tensor([2.0, 1.0, 0.5]))
    floats = torch.rand(1, 3, 2, 2)
    assert torch.equal(prepare.on_device(Batch(floats, ids), torch.device("cpu")).images, floats)


def test_batches_are_prefetched_in_threads_up_to_the_last_one() -> None:
    made = []

    def make(step: int) -> Batch:
        made.append((step, threading.current_thread().name))
        return numbered(step)

    with Prefetcher(make, stop=4, depth=2, workers=2) as batches:
        assert int(batches.get(0).texts) == 0
        time.sleep(0.2)
        assert {step for step, _ in made} == {0, 1, 2}
        assert [int(batches.get(step).texts) for step in (1, 2, 3)] == [1, 2, 3]
    assert sorted(step for step, _ in made) == [0, 1, 2, 3]
    assert all(name.startswith("oneclip-batch") for _, name in made)


def test_an_error_in_a_thread_is_raised_when_its_batch_is_requested() -> None:
    def make(step: int) -> Batch:
        if step == 1:
            raise ValueError("batch 1 is broken")
        return numbered(step)

    with Prefetcher(make, stop=3) as batches:
        batches.get(0)
        with pytest.raises(ValueError, match="batch 1 is broken"):
            batches.get(1)
