"""Group texts that share a prefix, such as the prompts of a zero-shot classifier.

Shapes: N texts, L tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]

MIN_GROUP_SIZE = 4  # with fewer rows, a separate prefix does not save time
PREFIX_LENGTHS = (32, 24, 16, 12, 10, 8, 7, 6, 5, 4, 3)  # prefix lengths to look for, the longest first


class PrefixGroup(NamedTuple):
    """Texts that share a prefix.

    Attributes:
        rows: their positions in the batch.
        prefix_length: number of tokens in the shared prefix; every text has more tokens than that.
    """

    rows: Ids
    prefix_length: int


def group_by_prefix(ids: Ids, lengths: Ids) -> list[PrefixGroup]:
    """Group texts by shared prefix.

    Args:
        ids: (N, L) token ids; N is at least 1.
        lengths: (N,) number of tokens to compute for each text, at least 1.

    Returns:
        Groups that together contain every row once. If there are rows that share fewer than three tokens, they are the
        last group. Its prefix length is 1 if all begin with the same token, as with nearly all tokenizers, else 0.
    """
    order = np.lexsort(ids.T[::-1])
    ordered, ends = ids[order], lengths[order]
    same = ordered[1:] == ordered[:-1]
    # (N - 1,) tokens that a row shares with the next; each row keeps at least one token of its own
    shared = np.minimum(np.cumprod(same, axis=1).sum(axis=1), np.minimum(ends[1:], ends[:-1]) - 1)
    groups: list[PrefixGroup] = []
    ungrouped = np.ones(len(ids), dtype=bool)
    for min_length in PREFIX_LENGTHS:
        for start, stop in _runs(ungrouped[1:] & ungrouped[:-1] & (shared >= min_length)):
            if stop - start >= MIN_GROUP_SIZE:
                groups.append(PrefixGroup(order[start:stop], int(shared[start : stop - 1].min())))
                ungrouped[start:stop] = False
    rest = order[ungrouped]
    if len(rest):
        same_start = (ids[rest, 0] == ids[rest[0], 0]).all() and (lengths[rest] > 1).all()
        groups.append(PrefixGroup(rest, int(same_start)))
    return groups


def _runs(linked: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of each run of rows that are all linked with the next row."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], linked, [False]]).astype(np.int8)))
    for start, stop in edges.reshape(-1, 2).tolist():
        yield start, stop + 1
