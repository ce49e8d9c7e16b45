"""Preprocessed pictures to features, a batch after the other: where they are computed elsewhere, the next one is on its
way there before the last one's features are asked for.

Shapes: B batch, D joint embedding, (H, W) pixels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oneclip.engine import Transfer, finite, normalized
from oneclip.image import FastPreprocess
from oneclip.image.uint8 import NormalizeBytes, Unnormalized

if TYPE_CHECKING:
    from oneclip.encoder.encoder import Encoder

Begun = Callable[[], NDArray[np.float32]]  # gives the features once they are there
T = TypeVar("T")


class Feed:
    """The way of pictures and captions through an encoder's towers.

    On a GPU pictures travel as bytes, and are normalised there: the same numbers, a fourth of the way.

    Args:
        encoder: the model.
        decode: of pictures "exact" or "fast".

    Attributes:
        preprocess: a PIL image to what `pictures` takes; to be called in threads.
        ahead: how many batches are to be begun before the first is asked for.
    """

    def __init__(self, encoder: Encoder, decode: str = "exact") -> None:
        self._encoder = encoder
        self._transfer = Transfer(encoder.device)
        self.ahead = self._transfer.ahead
        whole = encoder.preprocess if decode == "exact" else FastPreprocess(encoder.preprocess_cfg)
        to_bytes = Unnormalized.of(whole) if self._transfer.overlaps else None
        self._normalize = NormalizeBytes(to_bytes.normalize, encoder.device) if to_bytes else None
        self.preprocess: Any = to_bytes or whole

    def pictures(self, pixels: Sequence[Tensor]) -> Begun:
        """Begin to encode tensors (3, H, W), as `preprocess` makes them, on the CPU: (B, D) of unit length.

        Raises:
            CheckpointError: when they are asked for, if one is not finite.
        """
        batch = self._transfer.stack(pixels)
        if self._normalize is not None and batch.dtype == torch.uint8:  # floats were prepared for a CPU
            batch = self._normalize(batch)
        return self._begin(self._encoder.encode_pixels(batch))

    def captions(self, ids: Tensor) -> Begun:
        """Begin to encode token ids (B, L), likewise."""
        return self._begin(self._encoder.encode_tokens(ids))

    def _begin(self, features: Tensor) -> Begun:
        arrived, name = self._transfer.fetch(normalized(features)), self._encoder.name
        return lambda: finite(arrived(), name)


def delayed(batches: Generator[T, None, None], by: int) -> Generator[T, None, None]:
    """The same, each when so many more have been made; those before an error come before it."""
    line: deque[T] = deque()
    error: Exception | None = None
    with closing(batches):
        while error is None:
            try:
                line.append(next(batches))
            except Exception as raised:
                error = raised
            else:
                if len(line) > by:
                    yield line.popleft()
        yield from line
        try:
            if not isinstance(error, StopIteration):
                raise error
        finally:
            del error  # which holds this frame, and this frame it
