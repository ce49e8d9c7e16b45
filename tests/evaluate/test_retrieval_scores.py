"""Scores of retrieval from embeddings, and ranks in blocks of candidates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from by_vectors import dataset_of, random_unit, split_of, text_encoder, unit
from torch.overrides import TorchFunctionMode

from oneclip.errors import ConfigError, DataError
from oneclip.evaluate import recall
from oneclip.evaluate.encoded import Score
from oneclip.evaluate.recall import first_ranks, top_candidates
from oneclip.evaluate.retrieval import score_retrieval

TEXTS = [tuple(f"{row} {i}" for i in range(1 + row % 3)) for row in range(40)]
VECTORS = dict(zip((text for texts in TEXTS for text in texts), random_unit(200, seed=1), strict=False))
IMAGES = random_unit(40)


def score(texts: Sequence[tuple[str, ...]] = TEXTS, images: Any = IMAGES, **options: Any) -> Score:
    split = split_of(images, texts=list(texts))
    return score_retrieval(dataset_of(split, "captions"), split, text_encoder(VECTORS), **options)


@pytest.mark.parametrize("compat", [False, True])
def test_recall_counts_queries_that_find_one_of_theirs(compat: bool) -> None:
    metrics = score(compat=compat).metrics
    all_texts = [text for texts in TEXTS for text in texts]
    similarity = np.stack([VECTORS[text] for text in all_texts]) @ IMAGES.T
    owner = np.array([row for row, texts in enumerate(TEXTS) for _ in texts])
    for k in (1, 5, 10):
        by_text = [owner[i] in np.argsort(-row)[:k] for i, row in enumerate(similarity)]
        by_image = [i in owner[np.argsort(-row)[:k]] for i, row in enumerate(similarity.T)]
        assert metrics[f"image_retrieval_recall@{k}"] == pytest.approx(np.mean(by_text))
        assert metrics[f"text_retrieval_recall@{k}"] == pytest.approx(np.mean(by_image))


def test_items_are_images_and_have_the_recalls_as_their_means() -> None:
    result = score()
    for name, values in result.items.items():
        assert len(values) == len(IMAGES)
        assert values.mean() == pytest.approx(result.metrics[name])
        assert result.intervals[name][0] <= result.metrics[name] <= result.intervals[name][1]


def test_a_k_above_the_number_of_candidates_has_no_recall() -> None:
    metrics = score(TEXTS[:3], IMAGES[:3], at=(1, 4)).metrics
    assert math.isnan(metrics["image_retrieval_recall@4"])
    assert not math.isnan(metrics["text_retrieval_recall@4"])  # of six texts


def test_equal_captions_are_one_text_unless_compat() -> None:
    same = [("0 0",), ("0 0",), ("2 0",)]
    assert (
        score(same, IMAGES[:3]).details["texts"],
        score(same, IMAGES[:3], compat=True).details["texts"],
    ) == (2, 3)


def test_an_image_without_captions_only_distracts() -> None:
    vector = VECTORS["0 0"]
    alone = score([("0 0",)], unit([vector]), at=(1,)).metrics
    distracted = score([(), ("0 0",)], unit([vector, vector]), at=(1,)).metrics
    assert (alone["image_retrieval_recall@1"], distracted["image_retrieval_recall@1"]) == (1.0, 0.0)
    assert distracted["text_retrieval_recall@1"] == 1.0


def test_invalid_retrieval_splits_are_errors() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        score(at=(0, 5))
    with pytest.raises(DataError, match="have no captions"):
        score([()] * len(IMAGES))


@pytest.fixture
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recall, "QUERY_CHUNK", 7)
    monkeypatch.setattr(recall, "CANDIDATE_CHUNK", 16)


@pytest.mark.usefixtures("_small_blocks")
def test_ranks_in_blocks_are_those_of_the_whole_matrix() -> None:
    queries, candidates = torch.tensor(random_unit(30)), torch.tensor(random_unit(53, seed=3))
    targets = [sorted({row, 52 - row, row * 7 % 53}) for row in range(30)]
    similarity = queries @ candidates.T
    expected = [int((row > row[mine].max()).sum()) for row, mine in zip(similarity, targets, strict=True)]
    assert first_ranks(queries, candidates, targets).tolist() == expected


@pytest.mark.usefixtures("_small_blocks")
def test_ties_are_seen_across_blocks() -> None:
    candidates = torch.tensor(np.repeat(random_unit(1), 53, axis=0))
    assert (
        first_ranks(torch.tensor(random_unit(9)), candidates, [[row] for row in range(9)]).tolist()
        == [52] * 9
    )


@pytest.mark.usefixtures("_small_blocks")
def test_the_most_similar_candidates_are_found_across_blocks() -> None:
    queries, candidates = random_unit(30), random_unit(53, seed=3)
    at = (1, 20, 53)
    parts = list(top_candidates(queries, candidates, at))
    for i, k in enumerate(at):
        found = torch.cat([part[i] for part in parts])
        np.testing.assert_array_equal(found, np.argsort(-(queries @ candidates.T), axis=1)[:, :k])


def test_the_largest_tensor_does_not_grow_with_the_gallery() -> None:
    largest: dict[int, int] = {}
    for count in (40_000, 160_000):
        sizes: list[int] = []

        class Noted(TorchFunctionMode):
            def __torch_function__(
                self, function: Any, types: Any, args: Any = (), kwargs: Any = None, sizes: list[int] = sizes
            ) -> Any:
                result = function(*args, **(kwargs or {}))
                sizes.extend(each.numel() for each in (result,) if isinstance(each, torch.Tensor))
                return result

        with Noted():
            first_ranks(random_unit(20, 4), random_unit(count, 4), [[row] for row in range(20)])
        largest[count] = max(sizes)
    assert 20 * recall.CANDIDATE_CHUNK <= largest[160_000] == largest[40_000] < 20 * 40_000
