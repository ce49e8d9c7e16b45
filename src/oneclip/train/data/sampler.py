"""Sampler: which sample is at which place of a training, computed from seed and place alone.

A training reads one stream of samples, epoch after epoch. Batch `step` is places [step * G, (step + 1) * G) of the
stream, where G is the batch size over all ranks. The sample at a place is computed from the seed and the place, so
no shuffled list is stored, a training resumes from one number, and the stream is the same on any number of processes.

Samples that are expensive to read one by one (tars behind an address) stay in blocks of neighbours, and whole blocks
are shuffled. The block borders move from epoch to epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from oneclip.errors import ConfigError

Numbers = NDArray[np.int64]

PATTERN_LENGTH = (
    10_000  # places after which the pattern of a mixture repeats; weights are rounded to 1 in 10,000
)
_CACHED_HEADS = 256  # epoch beginnings kept in memory
_MAX_STAND_INS = 100  # samples tried in the place of a broken one
_FEISTEL_ROUNDS = 8
_U = np.uint64


@dataclass(frozen=True)
class SourceRange:
    """Consecutive sample numbers of one source.

    Attributes:
        name: of the source, for messages.
        first: number of its first sample.
        size: number of samples.
        block_size: how many neighbours stay together.
        weight: share of the stream, relative to the other sources.
    """

    name: str
    first: int
    size: int
    block_size: int = 1
    weight: float = 1.0


class StreamSlice(NamedTuple):
    """The samples of consecutive places of the stream: (n,) sample numbers, and (n,) the epoch of each one's source."""

    numbers: Numbers
    epochs: Numbers


class StreamSampler:
    """The order of the samples in a training.

    Args:
        sources: each uses all of its samples before it repeats one. Sources alternate by weight.
        batch_size: G. A batch that spans the end of one epoch and the start of the next has no sample twice if the
            data has at least two batches.
        seed: of the order, 0 or more.

    Raises:
        ConfigError: if a batch needs more samples of a source than it has, or a weight is out of range.
    """

    def __init__(self, sources: Sequence[SourceRange], batch_size: int, seed: int = 0) -> None:
        if seed < 0:
            raise ConfigError(f"the data seed is {seed}; expected 0 or more")
        self.sources, self.batch_size, self.seed = tuple(sources), batch_size, seed
        self._sizes = np.array([source.size for source in sources])
        self._counts = _places_per_source(self.sources)  # in one repetition of the pattern
        self._pattern = _spread_evenly(self._counts)  # the source of each place of the pattern
        self._period = len(self._pattern)
        self._places = [np.flatnonzero(self._pattern == i) for i in range(len(sources))]
        self._ranks = np.empty(self._period, np.int64)  # places of the same source before each place
        for places in self._places:
            self._ranks[places] = np.arange(len(places))
        self._check_sizes()

    def take(self, start: int, stop: int) -> StreamSlice:
        """Return places [start, stop) of the stream."""
        repetitions, inside = np.divmod(np.arange(start, stop), self._period)
        sources = self._pattern[inside]
        index = repetitions * self._counts[sources] + self._ranks[inside]
        epochs, places = np.divmod(index, self._sizes[sources])
        numbers = np.empty_like(index)
        for source, epoch in np.unique(np.stack([sources, epochs]), axis=1).T.tolist():
            there = (sources == source) & (epochs == epoch)
            numbers[there] = self._numbers(source, epoch, places[there])
        return StreamSlice(numbers, epochs)

    def stand_ins(self, place: int) -> list[int]:
        """Return sample numbers to try, in this order, if the sample at a place cannot be read.

        They belong to the same source and epoch and are half an epoch away, so no batch near this one contains them.
        The stand-ins of two places of one batch differ as long as the data has more batches than attempts.
        """
        repetition, inside = divmod(place, self._period)
        source = int(self._pattern[inside])
        size = self.sources[source].size
        epoch, own = divmod(int(repetition * self._counts[source] + self._ranks[inside]), size)
        far = own + size // 2 + self.batch_size * np.arange(min(size // self.batch_size, _MAX_STAND_INS // 2))
        near = own + np.arange(1, min(size, _MAX_STAND_INS // 2))
        numbers = self.permuted(source, epoch, np.concatenate([far, near]) % size)
        return list(dict.fromkeys(numbers.tolist()))

    # ---------------------------------------------------------------- one epoch of one source

    def _numbers(self, source: int, epoch: int, places: Numbers) -> Numbers:
        numbers = self.permuted(source, epoch, places)
        head = _epoch_head(self, source, epoch)
        in_head = places < len(head)
        numbers[in_head] = head[places[in_head]]
        return numbers

    def permuted(self, source: int, epoch: int, places: Numbers) -> Numbers:
        """Return the samples at places of an epoch before `_epoch_head` corrects its beginning.

        Whole blocks are permuted. The samples that do not fill a block come last.
        """
        size = self.sources[source].size
        block_size = min(self.sources[source].block_size, size)
        key = (self.seed, source, epoch)
        blocks, inside = np.divmod(places, block_size)
        is_whole = blocks < size // block_size
        numbers = places.copy()
        permutation = Permutation(size // block_size, key)
        numbers[is_whole] = permutation(blocks[is_whole]) * block_size + inside[is_whole]
        shift = int(np.random.SeedSequence((*key, 1)).generate_state(1, np.uint64)[0] % size)
        return self.sources[source].first + (numbers + shift) % size

    def straddle(self, source: int, epoch: int) -> tuple[int, int]:
        """Count, in the batch where an epoch begins, the samples of the previous epoch and those of this one."""
        if epoch == 0:
            return 0, 0
        first = epoch * self.sources[source].size
        repetition, inside = divmod(first, int(self._counts[source]))
        step = (repetition * self._period + int(self._places[source][inside])) // self.batch_size
        start, stop = (self._count_before(source, s * self.batch_size) for s in (step, step + 1))
        return first - start, stop - first

    def _count_before(self, source: int, place: int) -> int:
        """Count the samples of a source before a place of the stream."""
        repetition, inside = divmod(place, self._period)
        return repetition * int(self._counts[source]) + int(np.searchsorted(self._places[source], inside))

    def _check_sizes(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"the batch size is {self.batch_size}; expected 1 or more")
        counts = self._counts.tolist()
        for source, count in zip(self.sources, counts, strict=True):
            needed = -(-self.batch_size * count // self._period)
            if not 1 <= needed <= source.size:
                largest = min(s.size * self._period // c for s, c in zip(self.sources, counts, strict=True))
                raise ConfigError(
                    f"a batch of {self.batch_size} needs {needed} samples of {source.name}, which has {source.size}; "
                    f"use --batch-size {largest} or less"
                    + (", or a smaller weight" if len(self.sources) > 1 else "")
                )


@lru_cache(_CACHED_HEADS)
def _epoch_head(sampler: StreamSampler, source: int, epoch: int) -> Numbers:
    """Return the beginning of an epoch where it differs from `StreamSampler.permuted`.

    The last batch of the previous epoch is filled with samples of this one. Those that the batch already contains
    swap places with samples that come right after the batch.
    """
    before, after = sampler.straddle(source, epoch)
    if not before or not after:
        return np.empty(0, np.int64)
    size = sampler.sources[source].size
    # The end of this epoch does not change: the next epoch is adapted to it.
    last = min(before + after, size - sampler.straddle(source, epoch + 1)[0])
    head = sampler.permuted(source, epoch, np.arange(max(last, after)))
    is_repeated = np.isin(head, sampler.permuted(source, epoch - 1, np.arange(size - before, size)))
    free = after + np.flatnonzero(~is_repeated[after:])
    repeated = np.flatnonzero(is_repeated[:after])[: len(free)]
    free = free[: len(repeated)]
    head[repeated], head[free] = head[free], head[repeated]
    return head


def _places_per_source(sources: Sequence[SourceRange]) -> Numbers:
    """Round the weights to places of the pattern, by the largest remainder method."""
    weights = np.array([source.weight for source in sources], dtype=np.float64)
    if len(sources) == 1:
        return np.ones(1, np.int64)
    if not (np.isfinite(weights).all() and (weights > 0).all()):
        raise ConfigError(f"the weights of a mixture must be numbers above 0; found {weights.tolist()}")
    exact = PATTERN_LENGTH * weights / weights.sum()
    counts: Numbers = np.floor(exact).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: PATTERN_LENGTH - counts.sum()]] += 1
    if not counts.all():
        least = sources[int(np.argmin(exact))]
        raise ConfigError(
            f"the weight of {least.name} is {least.weight} of {weights.sum():g}, less than one in {PATTERN_LENGTH}; "
            "use a larger weight, or leave this source out"
        )
    return counts


def _spread_evenly(counts: Numbers) -> Numbers:
    """Return a pattern in which the places of each source are spread as evenly as possible."""
    sources = np.repeat(np.arange(len(counts)), counts)
    position = np.concatenate([(np.arange(count) + 0.5) / count for count in counts.tolist()])
    pattern: Numbers = sources[np.lexsort((sources, position))]
    return pattern


class Permutation:
    """A permutation of [0, size) that is computed, not stored.

    Eight rounds of a balanced Feistel network (Luby and Rackoff 1988) permute the numbers of 2h bits. A result outside
    [0, size) is permuted again until it is inside ("cycle walking", Black and Rogaway 2002).

    Args:
        size: at least 1.
        key: whole numbers, 0 or more; another key gives another permutation.
    """

    def __init__(self, size: int, key: tuple[int, ...]) -> None:
        self.size = size
        self._half = _U(max(2, ((size - 1).bit_length() + 1) // 2))  # bits of each half
        self._mask = (_U(1) << self._half) - _U(1)
        self._keys = np.random.SeedSequence(key).generate_state(_FEISTEL_ROUNDS, np.uint64)

    def __call__(self, places: Numbers) -> Numbers:
        """Return the numbers at these places, int64 of any shape."""
        found = self._rounds(places.astype(np.uint64))
        while (outside := found >= self.size).any():
            found[outside] = self._rounds(found[outside])
        return found.astype(np.int64)

    def _rounds(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = values >> self._half, values & self._mask
        for key in self._keys:
            left, right = right, left ^ (_splitmix64(right ^ key) & self._mask)
        return left << self._half | right


def _splitmix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble numbers with the finalizer of splitmix64 (Steele, Lea and Flood 2014)."""
    values = (values ^ (values >> _U(30))) * _U(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> _U(27))) * _U(0x94D049BB133111EB)
    return values ^ (values >> _U(31))
