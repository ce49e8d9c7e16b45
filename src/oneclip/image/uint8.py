"""Preprocess images to uint8 and normalize them on the device.

The two steps together equal `Preprocess` bit for bit, with the same three float32 operations in the same order. Only a
quarter of the bytes is copied to the device.

Shapes: B batch, (H, W) pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from oneclip.image.fast_preprocess import FastPreprocess
from oneclip.image.preprocess import Preprocess, Step, apply_steps
from oneclip.image.steps import Normalize, Size, ToRGB, ToTensor

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class UInt8Preprocess:
    """Steps of a `Preprocess` or `FastPreprocess` before `ToTensor` and `Normalize`.

    Attributes:
        normalize: the last step of the preprocessing.
        min_size: as in `FastPreprocess`; None if images are decoded at their full size.
    """

    def __init__(
        self, steps: list[Step], normalize: Normalize, min_size: Callable[[Size], Size] | None = None
    ) -> None:
        self._steps, self.normalize, self.min_size = steps, normalize, min_size

    @classmethod
    def of(cls, preprocess: object) -> UInt8Preprocess | None:
        """Split a preprocessing; None if it is of another class or does not end with the usual steps."""
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
        return cls(steps, normalize, getattr(preprocess, "min_size", None))

    def __call__(self, image: Image.Image) -> Tensor:
        """Preprocess one image of any mode and size.

        Returns:
            (3, H, W) uint8.

        Raises:
            ImageError: if it is not a PIL image, is truncated or empty, or its mode cannot be converted to RGB.
        """
        import torch

        return torch.from_numpy(np.array(apply_steps(self._steps, image))).permute(2, 0, 1)


class NormalizeUInt8:
    """Normalization of (B, 3, H, W) uint8 batches on a device to float32: `ToTensor` and `Normalize` in one.

    Division is by tensors: for a Python number, a GPU multiplies by the inverse, which rounds differently. The tensors
    are made once, because the CPU waits for each copy to the device.
    """

    def __init__(self, normalize: Normalize, device: torch.device) -> None:
        import torch

        rows = ((255.0,) * 3, normalize.mean, normalize.std)
        self._white, self._mean, self._std = torch.tensor(rows, dtype=torch.float32, device=device).view(
            3, 3, 1, 1
        )

    def __call__(self, pixels: Tensor) -> Tensor:
        return pixels.float().div_(self._white).sub_(self._mean).div_(self._std)
