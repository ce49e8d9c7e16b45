"""Batch reader: read, decode and augment one rank's share of a batch, and replace samples that cannot be read.

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
from oneclip.image import Truncated, open_image
from oneclip.train.data.batches import Batch
from oneclip.train.data.dataset import PairDataset, Sample
from oneclip.train.data.sampler import StreamSampler

Transform = Callable[[Image.Image, int], Tensor]
"""Turns an image and a seed into a (3, H, W) tensor; `oneclip.image.Augment` is one."""


class Pair(NamedTuple):
    """One preprocessed image, and one of its captions."""

    image: Tensor  # (3, H, W)
    caption: str
    extra: Mapping[str, int]


class BrokenSample(NamedTuple):
    """A sample that cannot be used, and the reason."""

    number: int
    name: str
    reason: str


class LoadedBatch(NamedTuple):
    """A batch, how many samples were read for it, and which of them were broken."""

    batch: Batch
    samples_read: int
    broken: list[BrokenSample]


@dataclass(frozen=True)
class BatchReader:
    """Reads batches. Each is a function of its step. Can be pickled if dataset and transform can.

    Attributes:
        dataset: what is read.
        sampler: order of the samples; its batch size is that of the global batch.
        transform: turns an image and a seed into a tensor.
        rank, world_size: which share of each batch is read.
        block_size: how many neighbours are read in one request.
        max_pixels: images with more pixels count as broken; None for the limit of `oneclip.image.open_image`.
        truncated: "refuse" (they count as broken) or "accept" image files whose pixel data is incomplete.
    """

    dataset: PairDataset
    sampler: StreamSampler
    transform: Transform
    rank: int = 0
    world_size: int = 1
    block_size: int = 1
    max_pixels: int | None = None
    truncated: Truncated = "refuse"

    def read(self, step: int, pool: Executor) -> LoadedBatch:
        """Read this rank's share of batch `step`.

        Raises:
            DataError: if neither a sample nor any of its stand-ins can be read.
        """
        batch_size = self.sampler.batch_size
        share = batch_size // self.world_size
        start = step * batch_size + self.rank * share
        samples = self.sampler.take(start, start + share)
        wanted = list(zip(samples.numbers.tolist(), samples.epochs.tolist(), strict=True))
        found = [one for block in pool.map(self._read_block, self._blocks(wanted)) for one in block]
        broken = [one for one in found if isinstance(one, BrokenSample)]
        if broken:
            in_batch = set(self.sampler.take(step * batch_size, (step + 1) * batch_size).numbers.tolist())
            for index, one in enumerate(found):
                if isinstance(one, BrokenSample):
                    found[index], more = self._stand_in(start + index, wanted[index][1], one, in_batch)
                    broken += more
        pairs = [one for one in found if isinstance(one, Pair)]
        extra = {
            name: torch.tensor([pair.extra.get(name, -1) for pair in pairs]) for name in self.dataset.extras
        }
        batch = Batch(torch.stack([pair.image for pair in pairs]), [pair.caption for pair in pairs], extra)
        return LoadedBatch(batch, share + len(broken), broken)

    def _blocks(self, wanted: list[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
        """Group consecutive numbers of one epoch, at most `block_size` together."""
        block: list[tuple[int, int]] = []
        for number, epoch in wanted:
            if block and (len(block) == self.block_size or block[-1] != (number - 1, epoch)):
                yield block
                block = []
            block.append((number, epoch))
        if block:
            yield block

    def _read_block(self, wanted: list[tuple[int, int]]) -> list[Pair | BrokenSample]:
        samples = self.dataset.read_many([number for number, _ in wanted])
        return [
            self._pair_or_broken(*numbers, sample) for numbers, sample in zip(wanted, samples, strict=True)
        ]

    def _pair_or_broken(self, number: int, epoch: int, sample: Sample | Exception) -> Pair | BrokenSample:
        try:
            return self._pair(number, epoch, sample)
        except Exception as error:  # any error of a file or a transform concerns this sample only
            name = self.dataset.name(number)
            reason = str(error) if isinstance(error, OneCLIPError) else f"{type(error).__name__}: {error}"
            return BrokenSample(number, name, reason if name in reason else f"{name}: {reason}")

    def _pair(self, number: int, epoch: int, sample: Sample | Exception) -> Pair:
        if isinstance(sample, Exception):
            raise sample
        captions = [caption for caption in sample.captions if caption.strip()]
        if not captions:
            raise DataError("the sample has no caption")
        key = np.random.SeedSequence([self.sampler.seed, epoch, number])
        seed, choice = key.generate_state(2, np.uint64).tolist()
        image = open_image(sample.image, max_pixels=self.max_pixels, truncated=self.truncated)
        return Pair(self.transform(image, seed >> 1), captions[choice % len(captions)], sample.extra)

    def _stand_in(
        self, place: int, epoch: int, broken: BrokenSample, in_batch: set[int]
    ) -> tuple[Pair, list[BrokenSample]]:
        """Find another sample for a place, if possible one that the batch does not contain.

        Returns:
            The pair, and the samples that were tried before it and were broken as well.
        """
        also_broken: list[BrokenSample] = []
        for number in sorted(self.sampler.stand_ins(place), key=in_batch.__contains__):
            one = self._read_block([(number, epoch)])[0]
            if isinstance(one, Pair):
                return one, also_broken
            also_broken.append(one)
        raise DataError(
            f"{broken.name} cannot be used, and neither can the {len(also_broken)} samples tried in its place: "
            f"{broken.reason}"
        )
