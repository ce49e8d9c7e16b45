"""A step to this rank's share of its batch: read, decoded, augmented, with stand-ins for what is broken.

Shapes: B pairs of a rank, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from oneclip.errors import DataError, OneCLIPError
from oneclip.image import open_image
from oneclip.train.data.batches import Batch
from oneclip.train.data.sampler import Order
from oneclip.train.data.samples import Sample, Samples

Transform = Callable[[Image.Image, int], Tensor]
"""A picture and a seed to a (3, H, W) tensor; `oneclip.image.Augment` is one."""


class Pair(NamedTuple):
    """One picture as the model sees it, and one of its captions."""

    image: Tensor  # (3, H, W)
    caption: str
    extra: Mapping[str, int]


class Broken(NamedTuple):
    """A sample that could not be used, and why."""

    number: int
    name: str
    reason: str


class Made(NamedTuple):
    """A batch, and what it took."""

    batch: Batch
    read: int
    broken: list[Broken]


@dataclass(frozen=True)
class Reader:
    """Makes batches, each a function of its step. Can be pickled if samples and transform can.

    Attributes:
        samples: what is read.
        order: of them, which has the size of the global batch.
        transform: a picture and a seed to a tensor.
        rank, world_size: which share of each batch is made.
        run: how many neighbours are read at once.
        max_pixels: pictures of more count as broken; None for the limit of `oneclip.image.open_image`.
    """

    samples: Samples
    order: Order
    transform: Transform
    rank: int = 0
    world_size: int = 1
    run: int = 1
    max_pixels: int | None = None

    def make(self, step: int, pool: Executor) -> Made:
        """The share of batch `step`.

        Raises:
            DataError: if neither a sample nor any of its stand-ins can be read.
        """
        share = self.order.batch_size // self.world_size
        start = step * self.order.batch_size + self.rank * share
        picks = self.order.take(start, start + share)
        wanted = list(zip(picks.numbers.tolist(), picks.epochs.tolist(), strict=True))
        found = [one for some in pool.map(self._read, self._runs(wanted)) for one in some]
        broken = [one for one in found if isinstance(one, Broken)]
        if broken:
            there = set(self.order.take(step * self.order.batch_size, (step + 1) * self.order.batch_size)[0])
            for index, one in enumerate(found):
                if isinstance(one, Broken):
                    found[index], more = self._stand_in(start + index, wanted[index][1], one, there)
                    broken += more
        pairs = [one for one in found if isinstance(one, Pair)]
        extra = {
            name: torch.tensor([pair.extra.get(name, -1) for pair in pairs]) for name in self.samples.extras
        }
        batch = Batch(torch.stack([pair.image for pair in pairs]), [pair.caption for pair in pairs], extra)
        return Made(batch, share + len(broken), broken)

    def _runs(self, wanted: list[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
        """Numbers that follow one another, at most a run of them, together."""
        some: list[tuple[int, int]] = []
        for number, epoch in wanted:
            if some and (len(some) == self.run or some[-1] != (number - 1, epoch)):
                yield some
                some = []
            some.append((number, epoch))
        if some:
            yield some

    def _read(self, wanted: list[tuple[int, int]]) -> list[Pair | Broken]:
        samples = self.samples.read_run([number for number, _ in wanted])
        return [self._pair(*one, sample) for one, sample in zip(wanted, samples, strict=True)]

    def _pair(self, number: int, epoch: int, sample: Sample | Exception) -> Pair | Broken:
        try:
            return self._made(number, epoch, sample)
        except Exception as error:  # whatever a file or a transform raises is about this sample
            name = self.samples.name(number)
            why = str(error) if isinstance(error, OneCLIPError) else f"{type(error).__name__}: {error}"
            return Broken(number, name, why if name in why else f"{name}: {why}")

    def _made(self, number: int, epoch: int, sample: Sample | Exception) -> Pair:
        if isinstance(sample, Exception):
            raise sample
        captions = [caption for caption in sample.captions if caption.strip()]
        if not captions:
            raise DataError("it has no caption")
        key = np.random.SeedSequence([self.order.seed, epoch, number])
        seed, choice = key.generate_state(2, np.uint64).tolist()
        image = self.transform(open_image(sample.picture, max_pixels=self.max_pixels), seed >> 1)
        return Pair(image, captions[choice % len(captions)], sample.extra)

    def _stand_in(self, place: int, epoch: int, broken: Broken, there: set[int]) -> tuple[Pair, list[Broken]]:
        """Another sample for a place, if possible one that its batch does not hold; and those that were broken too."""
        numbers = self.order.stand_ins(place)
        also: list[Broken] = []
        for number in sorted(numbers, key=there.__contains__):
            one = self._read([(number, epoch)])[0]
            if isinstance(one, Pair):
                return one, also
            also.append(one)
        raise DataError(
            f"{broken.name} cannot be used, nor any of {len(also)} samples in its place: {broken.reason}"
        )
