"""Captions of a causal tower to features, with what several begin with computed once.

No token sees what follows it, so equal beginnings have equal keys and values in every block: those of the start of text
are the same for all captions, and the prompts of a zero-shot classifier differ in little but the name of a class.

Shapes: G beginnings, B captions, P tokens that they begin with, S of their own, H heads, E channels a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oneclip.engine.blocks import KeysValues
from oneclip.engine.thread_groups import LEAST, in_lanes
from oneclip.text.batching.shared_prefixes import Group, alike

REMEMBERED = 16  # beginnings of a single token
MOST = 512  # captions at once: keys and values of their beginnings are held for all blocks


@dataclass(frozen=True)
class Beginnings:
    """What tokens that are computed already leave for those behind them.

    Attributes:
        lengths: (G,) of each.
        seen: of each block keys and values (G, H, P, E); those behind a shorter beginning mean nothing.
    """

    lengths: Tensor
    seen: Sequence[KeysValues]


@dataclass(frozen=True)
class Job:
    """Captions that are computed together.

    Attributes:
        rows: (B,) which of the batch.
        own: (B, S) ids behind their beginnings.
        positions: (B,) of the pooled tokens among them.
        starts: (B,) how many tokens each begins with.
        which: (B,) of the beginnings.
        beginnings: all that there are.
    """

    rows: Tensor
    own: Tensor
    positions: Tensor
    starts: Tensor
    which: Tensor
    beginnings: Beginnings

    def seen(self, block: int) -> KeysValues | None:
        """What a block's tokens see before them: (B, H, P, E), or (1, H, P, E) where it is the same for all."""
        most = int(self.starts.max())
        if not most:
            return None
        keys, values = self.beginnings.seen[block]
        if len(keys) == 1:
            return keys, values
        return keys[self.which, :, :most], values[self.which, :, :most]

    def mask(self) -> Tensor:
        """(B, 1, S, P + S): each token sees its beginning, and of its own what does not follow it."""
        count, length = self.own.shape
        before = torch.arange(int(self.starts.max()))
        hidden = (before >= self.starts[:, None])[:, None].expand(-1, length, -1)
        causal = torch.ones(length, length, dtype=torch.bool).triu(1).expand(count, -1, -1)
        away = torch.cat([hidden, causal], dim=2)
        return torch.zeros(away.shape, dtype=torch.float32).masked_fill(away, float("-inf"))[:, None]


class SharedBeginnings:
    """A computation of captions, each behind what it begins with.

    Args:
        begin: ids (G, P) to keys and values of each block, (G, H, P, E).
        go_on: a job to features (B, D).
    """

    def __init__(self, begin: Callable[[Tensor], list[KeysValues]], go_on: Callable[[Job], Tensor]) -> None:
        self._begin, self._go_on = begin, go_on
        self._remembered: dict[int, Beginnings] = {}

    def __call__(self, text: Tensor, pooled: Tensor) -> Tensor:
        """(B, L) ids, and the (B,) positions that are pooled, to features (B, D)."""
        batches = zip(torch.split(text, MOST), torch.split(pooled, MOST), strict=True)
        return torch.cat([self._features(ids, positions) for ids, positions in batches])

    def _features(self, text: Tensor, pooled: Tensor) -> Tensor:
        groups = alike(text.numpy(), pooled.numpy() + 1)
        beginnings = self._beginnings(text, groups)
        which = torch.empty(len(text), dtype=torch.long)
        for number, group in enumerate(groups):
            which[torch.from_numpy(group.rows)] = number
        own = pooled + 1 - beginnings.lengths[which]
        jobs = [_job(rows, text, own, which, beginnings) for rows in _parts(own.numpy())]
        features = torch.cat(in_lanes(self._go_on, jobs))
        return torch.empty_like(features).index_copy_(0, torch.cat([job.rows for job in jobs]), features)

    def _beginnings(self, text: Tensor, groups: list[Group]) -> Beginnings:
        """Those of all groups, computed together; a single one of one token is remembered."""
        lengths = torch.tensor([group.shared for group in groups])
        most = int(lengths.max())
        if not most:
            return Beginnings(lengths, ())
        ids = text[torch.tensor([int(group.rows[0]) for group in groups]), :most]
        only = int(ids[0, 0]) if ids.numel() == 1 else None
        if only in self._remembered:
            return self._remembered[only]
        found = Beginnings(lengths, self._begin(ids))
        if only is not None and len(self._remembered) < REMEMBERED:
            self._remembered[only] = found
        return found


def _job(rows: Tensor, text: Tensor, own: Tensor, which: Tensor, beginnings: Beginnings) -> Job:
    starts = beginnings.lengths[which[rows]]
    places = starts[:, None] + torch.arange(int(own[rows].max()))
    ids = text[rows[:, None], places.clamp(max=text.shape[1] - 1)]
    return Job(rows, ids, own[rows] - 1, starts, which[rows], beginnings)


def _parts(lengths: NDArray[np.int64]) -> Iterator[Tensor]:
    """Rows of like length, the longest first, with as many tokens as are worth a computation."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        count = -(-LEAST // int(lengths[order[start]]))
        if len(order) - start < 2 * count:
            count = len(order)  # what is left would be too little by itself
        yield torch.from_numpy(order[start : start + count])
        start += count
