"""The place of a sample in a training to its number: epoch after epoch, all of each, in an order by seed and epoch.

A training sees one stream of samples, and batch `step` is places [step * G, (step + 1) * G) of it, G being the size
of the batch over all ranks. What place p holds is computed from (seed, p) alone: there is nothing to store, the
place to resume from is one number, and it is the same on any number of processes.

Samples that are costly to read one by one (tars behind an address) stay in runs of neighbours, which are shuffled as
wholes. Where runs begin is drawn anew for each epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from oneclip.errors import ConfigError
from oneclip.train.data.permutation import Numbers, Permutation

PERIOD = 10_000  # places after which the pattern of a mixture repeats: weights count to this share
_KEPT = 256  # beginnings of epochs in memory
_STAND_INS = 100  # samples that are tried in the place of one


@dataclass(frozen=True)
class Part:
    """Samples that are gone through together.

    Attributes:
        name: for messages.
        first: the number of its first sample.
        size: how many there are.
        run: how many neighbours stay together.
        weight: its share of the stream, relative to those of other parts.
    """

    name: str
    first: int
    size: int
    run: int = 1
    weight: float = 1.0


class Picks(NamedTuple):
    """What a stretch of the stream holds: (n,) numbers of samples, and the epoch of its part that each is of."""

    numbers: Numbers
    epochs: Numbers


class Order:
    """The order of a training.

    Args:
        parts: each is gone through once before any sample of it comes again; they alternate by weight.
        batch_size: G. A batch in which one epoch ends and the next begins holds no sample twice, if the data
            has at least two batches.
        seed: of the order, not negative.

    Raises:
        ConfigError: if a batch takes more of a part than there is, or a weight is out of range.
    """

    def __init__(self, parts: Sequence[Part], batch_size: int, seed: int = 0) -> None:
        if seed < 0:
            raise ConfigError(f"the seed of the data is {seed}; expected 0 or more")
        self.parts, self.batch_size, self.seed = tuple(parts), batch_size, seed
        self._sizes = np.array([part.size for part in parts])
        self._counts = _counts(self.parts)  # of each part in a period
        self._pattern = _pattern(self._counts)  # the part of each place of a period
        self._period = len(self._pattern)
        self._places = [np.flatnonzero(self._pattern == i) for i in range(len(parts))]
        self._ranks = np.empty(self._period, np.int64)  # how many of its part stand before each place
        for places in self._places:
            self._ranks[places] = np.arange(len(places))
        self._check_sizes()

    def take(self, start: int, stop: int) -> Picks:
        """Places [start, stop) of the stream."""
        blocks, inside = np.divmod(np.arange(start, stop), self._period)
        parts = self._pattern[inside]
        index = blocks * self._counts[parts] + self._ranks[inside]
        epochs, places = np.divmod(index, self._sizes[parts])
        numbers = np.empty_like(index)
        for part, epoch in np.unique(np.stack([parts, epochs]), axis=1).T.tolist():
            there = (parts == part) & (epochs == epoch)
            numbers[there] = self._numbers(part, epoch, places[there])
        return Picks(numbers, epochs)

    def stand_ins(self, place: int) -> list[int]:
        """Numbers to try, in this order, instead of the sample at a place that cannot be read.

        They are of the same part and epoch and stand half an epoch away, so in no batch near this one; the
        stand-ins of two places of one batch differ as long as the data has more batches than attempts.
        """
        block, inside = divmod(place, self._period)
        part = int(self._pattern[inside])
        size = self.parts[part].size
        epoch, own = divmod(int(block * self._counts[part] + self._ranks[inside]), size)
        far = own + size // 2 + self.batch_size * np.arange(min(size // self.batch_size, _STAND_INS // 2))
        near = own + np.arange(1, min(size, _STAND_INS // 2))
        numbers = self.plain(part, epoch, np.concatenate([far, near]) % size)
        return list(dict.fromkeys(numbers.tolist()))

    # ---------------------------------------------------------------- one epoch of one part

    def _numbers(self, part: int, epoch: int, places: Numbers) -> Numbers:
        numbers = self.plain(part, epoch, places)
        head = _head(self, part, epoch)
        in_head = places < len(head)
        numbers[in_head] = head[places[in_head]]
        return numbers

    def plain(self, part: int, epoch: int, places: Numbers) -> Numbers:
        """The permutation of an epoch by itself: of whole runs; samples that make no whole one come last."""
        size, run = self.parts[part].size, min(self.parts[part].run, self.parts[part].size)
        key = (self.seed, part, epoch)
        runs, inside = np.divmod(places, run)
        is_whole = runs < size // run
        numbers = places.copy()
        numbers[is_whole] = Permutation(size // run, key)(runs[is_whole]) * run + inside[is_whole]
        shift = int(np.random.SeedSequence((*key, 1)).generate_state(1, np.uint64)[0] % size)
        return self.parts[part].first + (numbers + shift) % size

    def straddle(self, part: int, epoch: int) -> tuple[int, int]:
        """Of the batch in which an epoch begins: how many samples of the one before, and of this one, it holds."""
        if epoch == 0:
            return 0, 0
        first = epoch * self.parts[part].size
        block, inside = divmod(first, int(self._counts[part]))
        step = (block * self._period + int(self._places[part][inside])) // self.batch_size
        start, stop = (self._before(part, s * self.batch_size) for s in (step, step + 1))
        return first - start, stop - first

    def _before(self, part: int, place: int) -> int:
        """How many samples of a part come before a place of the stream."""
        block, inside = divmod(place, self._period)
        return block * int(self._counts[part]) + int(np.searchsorted(self._places[part], inside))

    def _check_sizes(self) -> None:
        for part, count in zip(self.parts, self._counts.tolist(), strict=True):
            taken = -(-self.batch_size * count // self._period)
            if not 1 <= taken <= part.size:
                raise ConfigError(
                    f"a batch of {self.batch_size} takes {taken} samples of {part.name}, which has {part.size}: "
                    "some would be in it twice. Choose a batch size from 1 to that"
                    + (", or a smaller weight" if len(self.parts) > 1 else "")
                )


@lru_cache(_KEPT)
def _head(order: Order, part: int, epoch: int) -> Numbers:
    """The beginning of an epoch where it differs from `Order.plain`.

    Where the last batch of the epoch before is filled up from this one, samples that it holds already change places
    with some that come right after it.
    """
    before, after = order.straddle(part, epoch)
    if not before or not after:
        return np.empty(0, np.int64)
    size = order.parts[part].size
    # The end of this epoch stays as it is: the next one is made to fit it.
    last = min(before + after, size - order.straddle(part, epoch + 1)[0])
    head = order.plain(part, epoch, np.arange(max(last, after)))
    is_twice = np.isin(head, order.plain(part, epoch - 1, np.arange(size - before, size)))
    free = after + np.flatnonzero(~is_twice[after:])
    twice = np.flatnonzero(is_twice[:after])[: len(free)]
    free = free[: len(twice)]
    head[twice], head[free] = head[free], head[twice]
    return head


def _counts(parts: Sequence[Part]) -> Numbers:
    """How many places of a period each part has: their weights rounded, by largest remainders."""
    weights = np.array([part.weight for part in parts], dtype=np.float64)
    if len(parts) == 1:
        return np.ones(1, np.int64)
    if not (np.isfinite(weights).all() and (weights > 0).all()):
        raise ConfigError(f"weights of a mixture are numbers above 0; found {weights.tolist()}")
    exact = PERIOD * weights / weights.sum()
    counts: Numbers = np.floor(exact).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: PERIOD - counts.sum()]] += 1
    if not counts.all():
        least = parts[int(np.argmin(exact))]
        raise ConfigError(
            f"the weight of {least.name} is {least.weight} of {weights.sum():g}, less than one in {PERIOD}; "
            "give it more, or leave it out"
        )
    return counts


def _pattern(counts: Numbers) -> Numbers:
    """A period in which each part is spread as evenly as can be."""
    parts = np.repeat(np.arange(len(counts)), counts)
    when = np.concatenate([(np.arange(count) + 0.5) / count for count in counts.tolist()])
    pattern: Numbers = parts[np.lexsort((parts, when))]
    return pattern
