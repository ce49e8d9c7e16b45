"""Ranks and recall at k of a similarity search.

Shapes: Q queries, M candidates, D joint embedding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

QUERY_CHUNK = 1024  # rows of the similarity matrix in memory
CANDIDATE_CHUNK = 16_384  # its columns

Vectors: TypeAlias = Tensor | NDArray[np.float32]


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


def first_ranks(queries: Vectors, candidates: Vectors, targets: Sequence[Sequence[int]]) -> Tensor:
    """Return how many other candidates rank before the best of each query's targets, ties included.

    Memory does not depend on the number of candidates.

    Args:
        queries: (Q, D) tensor, or array that may be mapped from a file.
        candidates: (M, D), likewise.
        targets: for each query, the indices of the candidates that belong to it, at least one.

    Returns:
        (Q,) int64; 0 is best.
    """
    parts = []
    for start in range(0, len(queries), QUERY_CHUNK):
        wanted = targets[start : start + QUERY_CHUNK]
        columns = torch.tensor([column for each in wanted for column in each])
        rows = torch.arange(len(wanted)).repeat_interleave(torch.tensor([len(each) for each in wanted]))
        blocks = SimilarityBlocks(as_tensor(queries[start : start + QUERY_CHUNK]), candidates)
        best = torch.full((len(wanted), 1), -torch.inf)
        for first in blocks.starts:
            row, column = blocks.inside(first, rows, columns)
            if len(row):
                found = blocks[first][row, column]
                best[:, 0] = best[:, 0].scatter_reduce(0, row, found, "amax")
        before = torch.zeros(len(wanted), dtype=torch.long)
        for first in blocks.starts:
            ahead = blocks[first] >= best
            ahead[blocks.inside(first, rows, columns)] = False
            before += ahead.sum(dim=1)
        parts.append(before)
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.long)


def top_candidates(queries: Vectors, candidates: Vectors, at: Sequence[int]) -> Iterator[list[Tensor]]:
    """Yield the k most similar candidates of each query, best first, for some values of k.

    The order of ties is that of `torch.topk` with this k, unless the candidates are in several blocks. Memory does not
    depend on the number of candidates.

    Args:
        queries, candidates: see `first_ranks`.
        at: values of k, each at most M.

    Yields:
        the indices (B, k) for each k, in parts of the queries.
    """
    for start in range(0, len(queries), QUERY_CHUNK):
        blocks = SimilarityBlocks(as_tensor(queries[start : start + QUERY_CHUNK]), candidates)
        best: list[tuple[Tensor, Tensor]] = []
        for first in blocks.starts:
            for i, k in enumerate(at):
                similarity, indices = blocks[first].topk(min(k, blocks[first].shape[1]))
                indices += first
                if first == 0:
                    best.append((similarity, indices))
                    continue
                similarity = torch.cat([best[i][0], similarity], dim=1)
                indices = torch.cat([best[i][1], indices], dim=1)
                similarity, order = similarity.topk(min(k, similarity.shape[1]))
                best[i] = similarity, indices.gather(1, order)
        yield [indices for _, indices in best]


class SimilarityBlocks:
    """Similarity of some queries to all candidates, computed in blocks of columns that fit in memory.

    All blocks have the same shape when they are computed, because the rounding of a matrix product depends on it and
    equal candidates must have equal similarities.

    Args:
        queries: (B, D).
        candidates: (M, D).
    """

    def __init__(self, queries: Tensor, candidates: Vectors) -> None:
        self.queries, self.candidates = queries, candidates
        self.starts = range(0, len(candidates), CANDIDATE_CHUNK)
        self._last: tuple[int, Tensor] | None = None

    def __getitem__(self, first: int) -> Tensor:
        """Return columns `first` to at most `first + CANDIDATE_CHUNK`."""
        if self._last is None or self._last[0] != first:
            block = as_tensor(self.candidates[first : first + CANDIDATE_CHUNK])
            missing = CANDIDATE_CHUNK - len(block) if len(self.starts) > 1 else 0
            self._last = first, (self.queries @ F.pad(block, (0, 0, 0, missing)).T)[:, : len(block)]
        return self._last[1]

    def inside(self, first: int, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows and columns of the entries in a block, counted from its first column."""
        kept = (columns >= first) & (columns < first + CANDIDATE_CHUNK)
        return rows[kept], columns[kept] - first


def as_tensor(part: Vectors) -> Tensor:
    """Return rows as a tensor; those of an array are copied, since it may be a file that is only read."""
    return part if isinstance(part, Tensor) else torch.tensor(part)
