"""Ranks and recall at k of a similarity search.

Shapes: Q queries, M candidates, D joint embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

QUERY_CHUNK = 1024  # rows of the similarity matrix in memory


def recall_at_k(similarity: Tensor, k: int, targets: Tensor | None = None) -> float:
    """Return the share of queries whose target is among their k most similar candidates.

    A candidate that ties with the target counts as ranked before it, so a model that gives the same features to
    every input has a recall of 0.

    Args:
        similarity: (Q, M).
        k: at least 1.
        targets: (Q,) column of each query's target; by default query i belongs to candidate i.
    """
    return float((ranks(similarity, targets) < k).double().mean())


def ranks(similarity: Tensor, targets: Tensor | None = None) -> Tensor:
    """Return how many candidates rank before each query's target, ties included: (Q,), 0 is best."""
    if targets is None:
        targets = torch.arange(len(similarity), device=similarity.device)
    target_similarity = similarity.gather(1, targets[:, None])
    return (similarity >= target_similarity).sum(dim=1) - 1


def first_ranks(queries: Tensor, candidates: Tensor, targets: Sequence[Sequence[int]]) -> Tensor:
    """Return how many other candidates rank before the best of each query's targets, ties included.

    Args:
        queries: (Q, D).
        candidates: (M, D).
        targets: for each query, the indices of the candidates that belong to it, at least one.

    Returns:
        (Q,) int64; 0 is best.
    """
    parts = []
    for start in range(0, len(queries), QUERY_CHUNK):
        similarity = queries[start : start + QUERY_CHUNK] @ candidates.T
        is_target = torch.zeros_like(similarity, dtype=torch.bool)
        for row, columns in enumerate(targets[start : start + QUERY_CHUNK]):
            is_target[row, list(columns)] = True
        best = similarity.masked_fill(~is_target, -torch.inf).amax(dim=1, keepdim=True)
        parts.append(((similarity >= best) & ~is_target).sum(dim=1))
    return torch.cat(parts)
