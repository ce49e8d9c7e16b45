"""Samples to batches, each a function of its step: what a trainer reads from, on one process or on many.

Shapes: B pairs of a rank, G of all ranks together.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from oneclip.errors import ConfigError, DataError
from oneclip.train.data.batch_reader import Broken, Made, Reader, Transform
from oneclip.train.data.batches import Batch
from oneclip.train.data.mixture import Mixture
from oneclip.train.data.sampler import Order, Part
from oneclip.train.data.samples import Samples
from oneclip.train.data.workers import Workers

FEWEST = (
    500  # samples that `max_broken` is a share of, at least: of a few, one that is broken is a large share
)
_NAMED = 10_000  # broken samples that are kept by name


class Loader:
    """A `BatchSource` over samples: shuffled anew each epoch, with none dropped and none twice in an epoch.

    Batch `step` over all ranks is a stretch of one stream of samples, of which rank r has the r-th share: the
    batches of a training are the same on any number of ranks. A batch may hold the end of one epoch and the
    beginning of the next. A sample that is broken is noted, and another from far away takes its place, so that all
    ranks have as many; several captions of a picture take turns, drawn by seed, epoch and number, as does the
    augmentation.

    Args:
        samples: what is read.
        batch_size: G, over all ranks.
        transform: a picture and a seed to a (3, H, W) tensor.
        rank, world_size: which share of each batch this is.
        seed: of order, augmentation and the choice of captions.
        threads: that read and decode; in each of the worker processes, if there are some.
        workers: processes that make batches ahead; 0 makes them in this one.
        max_broken: the share of samples that may be broken.
        max_pixels: pictures of more count as broken; None for the limit of `oneclip.image.open_image`.
        run: how many neighbours stay together; None for what the samples say.

    Attributes:
        batches_per_epoch: the nearest whole number; at least 1.
        skipped: names of samples that could not be used, and why; the first ten thousand.
        broken: how many there were.
        workers: processes that make batches.

    Raises:
        ConfigError: if G is no multiple of `world_size` or larger than the data, or another setting is out of range.
    """

    def __init__(
        self,
        samples: Samples,
        batch_size: int,
        transform: Transform,
        *,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        threads: int = 4,
        workers: int = 0,
        max_broken: float = 0.01,
        max_pixels: int | None = None,
        run: int | None = None,
    ) -> None:
        if batch_size < 1 or batch_size % world_size or not 0 <= rank < world_size:
            raise ConfigError(
                f"a batch of {batch_size} cannot be shared by {world_size} ranks, of which this is {rank}; expected "
                "a batch size that is a multiple of the number of ranks, counted from 0"
            )
        if threads < 1 or workers < 0 or not 0 <= max_broken <= 1 or (run is not None and run < 1):
            raise ConfigError(
                "expected threads and run of at least 1, workers of at least 0 and max_broken in [0, 1]; found "
                f"threads={threads}, run={run}, workers={workers}, max_broken={max_broken}"
            )
        self.samples, self.batch_size, self.max_broken = samples, batch_size, max_broken
        self.workers = workers
        self.skipped = dict(samples.skipped)
        self._run = samples.run if run is None else run
        order = Order(_parts(samples, self._run), batch_size, seed)
        self.seed = seed
        self.batches_per_epoch = max(1, (2 * len(samples) + batch_size) // (2 * batch_size))
        reader = Reader(samples, order, transform, rank, world_size, self._run, max_pixels)
        self._makers: Threads | Workers = (
            Workers(reader, workers, threads) if workers else Threads(reader, threads)
        )
        self._lock = threading.Lock()
        self._read = 0
        self._broken: set[int] = set()

    @property
    def identity(self) -> dict[str, str | int | float]:
        """What a resumed training must share."""
        settings = {"batch_size": self.batch_size, "data_seed": self.seed, "data_run": self._run}
        return {**self.samples.identity, **settings}

    @property
    def broken(self) -> int:
        """How many different samples this rank could not use."""
        return len(self._broken)

    def batch(self, step: int) -> Batch:
        """This rank's share of batch `step`; its texts are captions.

        Raises:
            DataError: if more than `max_broken` of the samples are broken, or something cannot be read and nothing
                in its place.
        """
        made = self._makers.make(step)
        with self._lock:
            self._read += made.read
            for one in made.broken:
                self._note(one)
        return made.batch

    def close(self) -> None:
        """End threads and processes."""
        self._makers.close()

    def _note(self, one: Broken) -> None:
        self._broken.add(one.number)
        if len(self.skipped) < _NAMED:
            self.skipped[one.name] = one.reason
        read = min(self._read, len(self.samples))
        if len(self._broken) > self.max_broken * max(read, FEWEST):
            examples = "; ".join(list(self.skipped.values())[-3:])
            raise DataError(
                f"{len(self._broken)} of {read} samples are broken, more than {self.max_broken:.2%} "
                f"(of at least {FEWEST}): {examples}. Mend the data, or allow a larger share (max_broken)"
            )


class Threads:
    """Makes batches in threads of this process.

    Args:
        reader: knows how.
        threads: that read and decode.
    """

    def __init__(self, reader: Reader, threads: int) -> None:
        self._reader = reader
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="oneclip-picture")

    def make(self, step: int) -> Made:
        """Batch `step`."""
        return self._reader.make(step, self._pool)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)


def _parts(samples: Samples, run: int) -> list[Part]:
    if isinstance(samples, Mixture) and samples.weights is not None:
        return samples.parts_of(run)
    return [Part("the data", 0, len(samples), run)]
