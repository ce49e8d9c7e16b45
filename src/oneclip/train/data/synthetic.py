"""Synthetic pairs for smoke tests and speed measurements: coloured patches with random captions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image

from oneclip.errors import ConfigError
from oneclip.train.data.dataset import PairDataset, Sample

_PATCHES = 8  # patches per side
_WORDS = (
    "a photo of",
    "a drawing of",
    "red",
    "green",
    "blue",
    "small",
    "large",
    "old",
    "new",
    "cat",
    "dog",
    "house",
)


class SyntheticDataset(PairDataset):
    """Random images and captions, each computed from its number alone.

    Args:
        count: number of samples.
        size: (height, width) of the images, in pixels.
    """

    def __init__(self, count: int, size: tuple[int, int] = (224, 224)) -> None:
        super().__init__()
        if count < 1 or min(size) < 1:
            raise ConfigError(
                f"expected a count and an image size of at least 1; found count={count}, size={size}"
            )
        self.count, self.size = count, size

    def __len__(self) -> int:
        return self.count

    def read(self, number: int) -> Sample:
        random = np.random.default_rng(number)
        patches = Image.fromarray(random.integers(0, 256, (_PATCHES, _PATCHES, 3), np.uint8))
        image = patches.resize(self.size[::-1], Image.Resampling.NEAREST)
        words = random.integers(0, len(_WORDS), 6).tolist()
        return Sample(image, [" ".join([*(_WORDS[word] for word in words), str(number)])])

    @property
    def identity(self) -> Mapping[str, str | int | float]:
        return {"data": f"synthetic {self.size[0]} x {self.size[1]}", "samples": self.count}
