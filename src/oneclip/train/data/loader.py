"""Batch loader: shuffled batches of a dataset, each a function of its step, on one process or several.

Shapes: B pairs of a rank, G of all ranks together.
"""

from __future__ import annotations

import threading

from oneclip.errors import ConfigError, DataError
from oneclip.image import Truncated
from oneclip.train.data.batch_reader import BatchReader, BrokenSample, Transform
from oneclip.train.data.batches import Batch
from oneclip.train.data.dataset import PairDataset
from oneclip.train.data.mixture import MixtureDataset
from oneclip.train.data.sampler import SourceRange, StreamSampler
from oneclip.train.data.workers import ProcessWorkers, ThreadWorkers

# `max_bad_fraction` is a fraction of at least this many samples: of a few, one broken sample is a large fraction
MIN_SAMPLES_FOR_FRACTION = 500
_MAX_NAMED = 10_000  # broken samples that are listed by name


class BatchLoader:
    """A `BatchSource` over a dataset, shuffled anew in each epoch. No sample is dropped or repeated within an epoch.

    Batch `step` over all ranks is a slice of one stream of samples, and rank r reads the r-th share of it, so the
    batches of a training are the same on any number of ranks. A batch may span the end of one epoch and the start of
    the next. A broken sample is recorded, and another sample from far away takes its place, so that every rank gets
    full batches. The caption (if an image has several) and the augmentation depend on seed, epoch and sample number.

    Args:
        dataset: what is read.
        batch_size: G, over all ranks.
        transform: turns an image and a seed into a (3, H, W) tensor.
        rank, world_size: which share of each batch this loader reads.
        seed: of order, augmentation and choice of captions.
        threads: that read and decode; per worker process, if there are any.
        workers: processes that prefetch batches; 0 reads them in this process.
        max_bad_fraction: the largest fraction of samples that may be broken.
        max_pixels: images with more pixels count as broken; None for the limit of `oneclip.image.open_image`.
        truncated: "refuse" (they count as broken) or "accept" image files whose pixel data is incomplete.
        block_size: how many neighbours stay together in the order; None for the dataset's own value.

    Attributes:
        batches_per_epoch: the nearest whole number, at least 1.
        skipped: samples that could not be used: name and reason, for the first ten thousand.
        workers: number of worker processes.

    Raises:
        ConfigError: if G is not a multiple of `world_size` or is larger than the dataset, or another setting is out of
            range.
    """

    def __init__(
        self,
        dataset: PairDataset,
        batch_size: int,
        transform: Transform,
        *,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        threads: int = 4,
        workers: int = 0,
        max_bad_fraction: float = 0.01,
        max_pixels: int | None = None,
        truncated: Truncated = "refuse",
        block_size: int | None = None,
    ) -> None:
        if batch_size < 1 or batch_size % world_size or not 0 <= rank < world_size:
            raise ConfigError(
                f"a batch of {batch_size} cannot be split between {world_size} ranks (this is rank {rank}); expected a "
                "batch size that is a multiple of the number of ranks, and ranks counted from 0"
            )
        if (
            threads < 1
            or workers < 0
            or not 0 <= max_bad_fraction <= 1
            or (block_size is not None and block_size < 1)
        ):
            raise ConfigError(
                "expected threads and block_size of at least 1, workers of at least 0 and max_bad_fraction in [0, 1]; "
                f"found threads={threads}, block_size={block_size}, workers={workers}, "
                f"max_bad_fraction={max_bad_fraction}"
            )
        self.dataset, self.batch_size, self.max_bad_fraction = dataset, batch_size, max_bad_fraction
        self.workers = workers
        self.skipped = dict(dataset.skipped)
        self._block_size = dataset.block_size if block_size is None else block_size
        if isinstance(dataset, MixtureDataset) and dataset.weights is not None:
            ranges = dataset.source_ranges(self._block_size)
        else:
            ranges = [SourceRange("the data", 0, len(dataset), self._block_size)]
        sampler = StreamSampler(ranges, batch_size, seed)
        self.seed = seed
        self.batches_per_epoch = max(1, (2 * len(dataset) + batch_size) // (2 * batch_size))
        reader = BatchReader(
            dataset, sampler, transform, rank, world_size, self._block_size, max_pixels, truncated
        )
        self._workers: ThreadWorkers | ProcessWorkers = (
            ProcessWorkers(reader, workers, threads) if workers else ThreadWorkers(reader, threads)
        )
        self._lock = threading.Lock()
        self._samples_read = 0
        self._broken: set[int] = set()

    @property
    def identity(self) -> dict[str, str | int | float]:
        """Plain values that must be the same when a training is resumed."""
        settings = {
            "batch_size": self.batch_size,
            "data_seed": self.seed,
            "data_block_size": self._block_size,
        }
        return {**self.dataset.identity, **settings}

    @property
    def broken(self) -> int:
        """Number of different samples that this rank could not use."""
        return len(self._broken)

    def batch(self, step: int) -> Batch:
        """Read this rank's share of batch `step`; its texts are captions.

        Raises:
            DataError: if more than `max_bad_fraction` of the samples are broken, or neither a sample nor any of its
                stand-ins can be read.
        """
        loaded = self._workers.read(step)
        with self._lock:
            self._samples_read += loaded.samples_read
            for sample in loaded.broken:
                self._record_broken(sample)
        return loaded.batch

    def close(self) -> None:
        """Stop threads and processes."""
        self._workers.close()

    def _record_broken(self, sample: BrokenSample) -> None:
        self._broken.add(sample.number)
        if len(self.skipped) < _MAX_NAMED:
            self.skipped[sample.name] = sample.reason
        read = min(self._samples_read, len(self.dataset))
        if len(self._broken) > self.max_bad_fraction * max(read, MIN_SAMPLES_FOR_FRACTION):
            examples = "; ".join(list(self.skipped.values())[-3:])
            raise DataError(
                f"{len(self._broken)} of {read} samples are broken, more than {self.max_bad_fraction:.2%} "
                f"(of at least {MIN_SAMPLES_FOR_FRACTION}): {examples}. Fix the data, or allow a larger fraction "
                "(max_bad_fraction)"
            )
