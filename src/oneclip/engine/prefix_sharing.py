"""Computation of texts that share prefixes: each prefix goes through a causal text tower once.

No token sees what follows it, so equal prefixes have equal keys and values in every block. All texts share the start of
text, and the prompts of a zero-shot classifier differ in little but the name of a class.

Shapes: G prefixes, B texts, P tokens of a prefix, S tokens after it, H heads, E channels of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oneclip.engine.blocks import KeysValues
from oneclip.engine.thread_groups import MIN_TOKENS_PER_THREAD, run_in_groups
from oneclip.model.text_pooling import TextPooling
from oneclip.text.batching.shared_prefixes import PrefixGroup, group_by_prefix

MAX_CACHED_PREFIXES = 16  # prefixes of one token whose keys and values are kept
MAX_TEXTS = 512  # computed at once, because the keys and values of their prefixes are held for all blocks


@dataclass(frozen=True)
class PrefixStates:
    """Keys and values of prefixes.

    Attributes:
        lengths: (G,) tokens of each prefix.
        keys_values: for each block (G, H, P, E); entries beyond the length of a prefix are meaningless.
    """

    lengths: Tensor
    keys_values: Sequence[KeysValues]


@dataclass(frozen=True)
class SuffixBatch:
    """Texts that are computed together, without their prefixes.

    Attributes:
        rows: (B,) indices in the whole batch.
        ids: (B, S) token ids after the prefix.
        positions: (B,) index of the pooled token in `ids`.
        starts: (B,) tokens of each text's prefix.
        which: (B,) index of each text's prefix in `prefixes`.
        prefixes: all prefixes of the whole batch.
    """

    rows: Tensor
    ids: Tensor
    positions: Tensor
    starts: Tensor
    which: Tensor
    prefixes: PrefixStates

    def prefix(self, block: int) -> KeysValues | None:
        """Return each text's prefix keys and values in a block: (B, H, P, E), or (1, H, P, E) if all share one."""
        longest = int(self.starts.max())
        if not longest:
            return None
        keys, values = self.prefixes.keys_values[block]
        if len(keys) == 1:
            return keys, values
        return keys[self.which, :, :longest], values[self.which, :, :longest]

    def mask(self) -> Tensor:
        """Return the attention mask (B, 1, S, P + S): tokens see their prefix, and no later token of their own."""
        count, length = self.ids.shape
        places = torch.arange(int(self.starts.max()))
        beyond = (places >= self.starts[:, None])[:, None].expand(-1, length, -1)
        causal = torch.ones(length, length, dtype=torch.bool).triu(1).expand(count, -1, -1)
        hidden = torch.cat([beyond, causal], dim=2)
        return torch.zeros(hidden.shape, dtype=torch.float32).masked_fill(hidden, float("-inf"))[:, None]


class SharedPrefixes:
    """Function from token ids (B, L) on the CPU to features (B, D), computing equal prefixes once.

    Args:
        pooling: of the tower; it must not depend on padding.
        encode_prefixes: ids (G, P) to keys and values of each block, (G, H, P, E).
        encode_suffixes: texts without their prefixes to features (B, D).
    """

    def __init__(
        self,
        pooling: TextPooling,
        encode_prefixes: Callable[[Tensor], list[KeysValues]],
        encode_suffixes: Callable[[SuffixBatch], Tensor],
    ) -> None:
        self._pooling = pooling
        self._encode_prefixes, self._encode_suffixes = encode_prefixes, encode_suffixes
        self._cached: dict[int, PrefixStates] = {}

    def __call__(self, text: Tensor) -> Tensor:
        found = []
        for ids in torch.split(text, MAX_TEXTS):
            batches = self._suffix_batches(ids)
            parts = torch.cat(run_in_groups(self._encode_suffixes, batches))
            order = torch.cat([batch.rows for batch in batches])
            found.append(torch.empty_like(parts).index_copy_(0, order, parts))
        return torch.cat(found) if len(found) > 1 else found[0]

    def _suffix_batches(self, text: Tensor) -> list[SuffixBatch]:
        pooled = self._pooling.positions(text, text.shape[1])
        groups = group_by_prefix(text.numpy(), pooled.numpy() + 1)
        prefixes = self._prefixes(text, groups)
        which = torch.empty(len(text), dtype=torch.long)
        for number, group in enumerate(groups):
            which[torch.from_numpy(group.rows)] = number
        starts = prefixes.lengths[which]
        own = pooled + 1 - starts  # tokens after the prefix
        batches = []
        for rows in _rows_by_length(own.numpy()):
            places = starts[rows][:, None] + torch.arange(int(own[rows].max()))
            ids = text[rows[:, None], places.clamp(max=text.shape[1] - 1)]
            batches.append(SuffixBatch(rows, ids, own[rows] - 1, starts[rows], which[rows], prefixes))
        return batches

    def _prefixes(self, text: Tensor, groups: list[PrefixGroup]) -> PrefixStates:
        """Compute the prefixes of all groups together; a single prefix of one token is cached."""
        lengths = torch.tensor([group.prefix_length for group in groups])
        longest = int(lengths.max())
        if not longest:
            return PrefixStates(lengths, ())
        ids = text[torch.tensor([int(group.rows[0]) for group in groups]), :longest]
        only = int(ids[0, 0]) if ids.numel() == 1 else None
        if only in self._cached:
            return self._cached[only]
        found = PrefixStates(lengths, self._encode_prefixes(ids))
        if only is not None and len(self._cached) < MAX_CACHED_PREFIXES:
            self._cached[only] = found
        return found


def _rows_by_length(lengths: NDArray[np.int64]) -> Iterator[Tensor]:
    """Yield rows of similar length, the longest first, with enough tokens for one thread."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        count = -(-MIN_TOKENS_PER_THREAD // int(lengths[order[start]]))
        if len(order) - start < 2 * count:
            count = len(order)  # the rest would be too small for a batch of its own
        yield torch.from_numpy(order[start : start + count])
        start += count
