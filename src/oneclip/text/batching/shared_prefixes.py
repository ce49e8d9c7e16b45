"""Captions to groups that begin alike, such as the prompts of a zero-shot classifier, or all with the start of text.

Shapes: N captions, L tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]

FEWEST = 4  # rows for which a beginning of their own is worth while
LENGTHS = (32, 24, 16, 12, 10, 8, 7, 6, 5, 4, 3)  # of beginnings that are looked for, the longest first


class Group(NamedTuple):
    """Captions that begin alike.

    Attributes:
        rows: which they are.
        shared: how many tokens all of them begin with; each has more than those.
    """

    rows: Ids
    shared: int


def alike(ids: Ids, lengths: Ids) -> list[Group]:
    """Say which captions begin alike, and how far.

    Args:
        ids: (N, L) token ids; N is at least 1.
        lengths: (N,) tokens of each that are to be computed, at least 1.

    Returns:
        groups, with every row in one of them. The last is of the rows that share less than three tokens, if there are
        such: 1 if all begin with the same token, as nearly all tokenizers have it, or 0.
    """
    order = np.lexsort(ids.T[::-1])
    ordered, ends = ids[order], lengths[order]
    same = ordered[1:] == ordered[:-1]
    # (N - 1,) tokens that a row shares with the next, of which at least one of each row's own is left
    shared = np.minimum(np.cumprod(same, axis=1).sum(axis=1), np.minimum(ends[1:], ends[:-1]) - 1)
    groups: list[Group] = []
    left = np.ones(len(ids), dtype=bool)
    for least in LENGTHS:
        for start, stop in _runs(left[1:] & left[:-1] & (shared >= least)):
            if stop - start >= FEWEST:
                groups.append(Group(order[start:stop], int(shared[start : stop - 1].min())))
                left[start:stop] = False
    rest = order[left]
    if len(rest):
        begin_alike = (ids[rest, 0] == ids[rest[0], 0]).all() and (lengths[rest] > 1).all()
        groups.append(Group(rest, int(begin_alike)))
    return groups


def _runs(linked: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Where rows are linked with the next ones, without a gap: first and behind the last row of each such run."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], linked, [False]]).astype(np.int8)))
    for start, stop in edges.reshape(-1, 2).tolist():
        yield start, stop + 1
