"""A picture to the bytes of its tensor, and those to the tensor: for a device that normalises sooner than they arrive.

The two together are bit for bit what `Preprocess` is: a fourth of the bytes travels, and the same three operations in
float32 follow in the same order.

Shapes: B batch, (H, W) pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from oneclip.image.fast_preprocess import FastPreprocess
from oneclip.image.preprocess import Preprocess, Step, run
from oneclip.image.steps import Normalize, Size, ToRGB, ToTensor


class Unnormalized:
    """What a `Preprocess` or a `FastPreprocess` does to a picture before `ToTensor` and `Normalize`.

    Attributes:
        normalize: what it does after.
        least: as of `FastPreprocess`; None where pictures come in their full size.
    """

    def __init__(
        self, steps: list[Step], normalize: Normalize, least: Callable[[Size], Size] | None = None
    ) -> None:
        self._steps, self.normalize, self.least = steps, normalize, least

    @classmethod
    def of(cls, preprocess: object) -> Unnormalized | None:
        """The part of a preprocessing that ends in bytes; None of what is of another class, or ends otherwise."""
        if type(preprocess) not in (Preprocess, FastPreprocess):
            return None
        assert isinstance(preprocess, (Preprocess, FastPreprocess))
        steps, last = preprocess.transforms[:-2], preprocess.transforms[-3:]
        if [type(step) for step in last] != [ToRGB, ToTensor, Normalize]:
            return None
        normalize = last[-1]
        assert isinstance(normalize, Normalize)
        if len(normalize.mean) != 3:
            return None
        return cls(steps, normalize, getattr(preprocess, "least", None))

    def __call__(self, image: Image.Image) -> Tensor:
        """Preprocess one picture of any mode and size: a tensor (3, H, W) of uint8.

        Raises:
            ImageError: if it is no PIL image, is truncated or empty, or has a mode without conversion to RGB.
        """
        return torch.from_numpy(np.array(run(self._steps, image))).permute(2, 0, 1)


class NormalizeBytes:
    """`ToTensor` and `Normalize` for (B, 3, H, W) of uint8 on a device: to float32.

    It divides by tensors, not by numbers: for a number a GPU multiplies by its inverse, which rounds otherwise. They
    are made once, for the processor waits until they are there.
    """

    def __init__(self, normalize: Normalize, device: torch.device) -> None:
        rows = ((255.0,) * 3, normalize.mean, normalize.std)
        self._most, self._mean, self._std = torch.tensor(rows, dtype=torch.float32, device=device).view(
            3, 3, 1, 1
        )

    def __call__(self, pixels: Tensor) -> Tensor:
        return pixels.float().div_(self._most).sub_(self._mean).div_(self._std)
