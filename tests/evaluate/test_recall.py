"""Ranks and recall at k."""

from __future__ import annotations

import pytest
import torch

from oneclip.evaluate import ranks, recall_at_k
from oneclip.evaluate.recall import first_ranks


def test_recall_counts_targets_among_the_first_k() -> None:
    similarity = torch.tensor([[0.9, 0.1, 0.2], [0.8, 0.5, 0.1], [0.9, 0.8, 0.7]])
    assert [recall_at_k(similarity, k) for k in (1, 2, 3)] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert recall_at_k(similarity, 1, torch.tensor([0, 0, 0])) == 1.0


def test_equal_similarities_recall_nothing() -> None:
    assert recall_at_k(torch.zeros(10, 10), 5) == 0.0


def test_recall_at_1_of_chance_is_one_in_n() -> None:
    torch.manual_seed(0)
    assert recall_at_k(torch.rand(2000, 100), 1, torch.randint(100, (2000,))) == pytest.approx(0.01, abs=0.01)


def test_with_one_target_each_the_best_target_is_that_one() -> None:
    torch.manual_seed(0)
    queries, candidates = torch.randn(1500, 4), torch.randn(50, 4)
    targets = torch.randint(50, (1500,))
    found = first_ranks(queries, candidates, [[int(target)] for target in targets])
    assert torch.equal(found, ranks(queries @ candidates.T, targets))


def test_other_targets_of_a_query_do_not_come_before_the_best_one() -> None:
    candidates = torch.tensor([[1.0], [0.9], [0.8], [0.7]])
    assert first_ranks(torch.ones(1, 1), candidates, [[1, 2]]).tolist() == [1]
    assert first_ranks(torch.ones(1, 1), candidates, [[2, 3]]).tolist() == [2]


def test_a_candidate_that_ties_with_the_best_target_comes_before_it() -> None:
    assert first_ranks(torch.ones(1, 1), torch.ones(4, 1), [[0, 1]]).tolist() == [2]
