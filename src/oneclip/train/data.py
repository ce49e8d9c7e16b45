"""Pairs and a folder of pictures to batches, each a function of (seed, step).

Shapes: B batch, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from oneclip.errors import ConfigError, DataError, ImageError
from oneclip.image import open_image
from oneclip.pairs import Pairs, present_pairs
from oneclip.train.batches import Batch

Transform = Callable[[Image.Image, int], Tensor]
"""A picture and a seed to a (3, H, W) tensor; `oneclip.image.Augment` is one."""


class FolderTable:
    """Batches of a table's pictures and captions, shuffled anew each epoch.

    The order of an epoch is a permutation by (seed, epoch), the augmentation of an item by (seed, epoch, row):
    a batch is the same whenever it is asked for. What does not fill a last batch waits for another epoch. A
    picture that cannot be decoded is left out of its batch and noted in `skipped`.

    Args:
        pairs: the rows.
        folder: what relative paths are relative to.
        batch_size: B.
        transform: a picture and a seed to a tensor.
        seed: of order and augmentation.
        threads: that read pictures.
        max_pixels: pictures of more are skipped; None for the limit of `oneclip.image.open_image`.
        skip_missing: leave files that are not there out (they too are then in `skipped`), instead of raising.

    Raises:
        DataError: if files are missing.
        ConfigError: if the batch is larger than the table.
    """

    def __init__(
        self,
        pairs: Pairs,
        folder: str | Path,
        batch_size: int,
        transform: Transform,
        *,
        seed: int = 0,
        threads: int = 4,
        max_pixels: int | None = None,
        skip_missing: bool = False,
    ) -> None:
        self.folder, self.batch_size, self.transform = Path(folder), batch_size, transform
        self.seed, self.max_pixels = seed, max_pixels
        self.skipped: dict[str, str] = {}
        self.pairs = present_pairs(pairs, self.folder, None if not skip_missing else self.skipped)
        if not 1 <= batch_size <= len(self.pairs):
            raise ConfigError(
                f"the batch size is {batch_size}, and {pairs.name} has {len(self.pairs)} usable pairs; "
                f"expected a batch size from 1 to {len(self.pairs)}"
            )
        self.batches_per_epoch = len(self.pairs) // batch_size
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="oneclip-picture")
        self._order: tuple[int, NDArray[np.int64]] | None = None

    @property
    def identity(self) -> dict[str, str | int | float]:
        """What a resumed training must share."""
        return {"table": self.pairs.checksum, "batch_size": self.batch_size, "data_seed": self.seed}

    def batch(self, step: int) -> Batch:
        """Batch number `step`; its texts are captions.

        Raises:
            DataError: if none of its pictures can be decoded.
        """
        epoch, place = divmod(step, self.batches_per_epoch)
        rows = self._epoch(epoch)[place * self.batch_size :][: self.batch_size].tolist()
        images = list(self._pool.map(lambda row: self._read(row, epoch), rows))
        kept = [
            (image, self.pairs.captions[row])
            for image, row in zip(images, rows, strict=True)
            if image is not None
        ]
        if not kept:
            name = self.pairs.pictures[rows[0]]
            raise DataError(
                f"none of the {len(rows)} pictures of batch {step} can be read: {self.skipped[name]}"
            )
        return Batch(torch.stack([image for image, _ in kept]), [caption for _, caption in kept])

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)

    def _epoch(self, epoch: int) -> NDArray[np.int64]:
        """The order of an epoch; the last one is kept, since batches come mostly one after the other."""
        order = self._order
        if order is None or order[0] != epoch:
            order = (epoch, np.random.default_rng([self.seed, epoch]).permutation(len(self.pairs)))
            self._order = order
        return order[1]

    def _read(self, row: int, epoch: int) -> Tensor | None:
        name = self.pairs.pictures[row]
        seed = int(np.random.SeedSequence([self.seed, epoch, row]).generate_state(1, np.uint64)[0]) >> 1
        try:
            return self.transform(open_image(self.folder / name, max_pixels=self.max_pixels), seed)
        except ImageError as error:
            self.skipped[name] = str(error)
            return None
