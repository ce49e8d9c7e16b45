"""Similarities to how often what belongs to a query is among the first k.

Shapes: Q queries, M candidates, D joint embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

QUERIES_AT_ONCE = 1024  # rows of the similarity matrix in memory


def recall_at_k(similarity: Tensor, k: int, targets: Tensor | None = None) -> float:
    """The share of queries whose target is among their k most similar candidates.

    A candidate that ties with the target counts as before it: a model that gives the same features to
    everything recalls nothing.

    Args:
        similarity: (Q, M).
        k: at least 1.
        targets: (Q,) column of each query's target; by default query i belongs to candidate i.
    """
    return float((ranks(similarity, targets) < k).double().mean())


def ranks(similarity: Tensor, targets: Tensor | None = None) -> Tensor:
    """(Q,) how many candidates come before, or tie with, each query's target: 0 is first."""
    if targets is None:
        targets = torch.arange(len(similarity), device=similarity.device)
    own = similarity.gather(1, targets[:, None])
    return (similarity >= own).sum(dim=1) - 1


def first_ranks(queries: Tensor, candidates: Tensor, targets: Sequence[Sequence[int]]) -> Tensor:
    """How many candidates that are no target of a query come before, or tie with, the best of its targets.

    Args:
        queries: (Q, D).
        candidates: (M, D).
        targets: for each query the candidates that belong to it, one or more.

    Returns:
        (Q,) int64; 0 is first.
    """
    parts = []
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        similarity = queries[start : start + QUERIES_AT_ONCE] @ candidates.T
        belongs = torch.zeros_like(similarity, dtype=torch.bool)
        for row, columns in enumerate(targets[start : start + QUERIES_AT_ONCE]):
            belongs[row, list(columns)] = True
        best = similarity.masked_fill(~belongs, -torch.inf).amax(dim=1, keepdim=True)
        parts.append(((similarity >= best) & ~belongs).sum(dim=1))
    return torch.cat(parts)
