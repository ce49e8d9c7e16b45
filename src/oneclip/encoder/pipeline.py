"""Encode batches on a model's device, and fetch their embeddings.

Shapes: B batch, L tokens, D joint embedding, (H, W) pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oneclip.encoding.pipeline import PendingFeatures
from oneclip.engine import DeviceTransfer, InferenceModel, normalized, to_finite_array
from oneclip.image.uint8 import NormalizeUInt8, UInt8Preprocess


class EncodePipeline:
    """Path of images and texts to a model's device, through its towers, and back.

    For a GPU, images are copied as bytes and normalized there: the same numbers from a fourth of the bytes.

    Args:
        inference: the model.
        preprocess: one PIL image to one (3, H, W) tensor.
        embed_dim: D.

    Attributes:
        preprocess: a PIL image to a tensor for `start_images`; it can be called in threads.
        depth: number of batches to start before the first result is fetched.
    """

    def __init__(self, inference: InferenceModel, preprocess: Callable[..., Tensor], embed_dim: int) -> None:
        self._inference, self._embed_dim = inference, embed_dim
        self._transfer = DeviceTransfer(inference.device)
        self.depth = self._transfer.depth
        to_bytes = UInt8Preprocess.of(preprocess) if self._transfer.overlaps else None
        self._normalize = NormalizeUInt8(to_bytes.normalize, inference.device) if to_bytes else None
        self.preprocess: Any = to_bytes or preprocess

    def start_images(self, pixels: Sequence[Tensor]) -> PendingFeatures:
        """Start to encode tensors (3, H, W), made by `preprocess`, on the CPU: (B, D) of unit length.

        Raises:
            CheckpointError: by the returned function, if an embedding is not finite.
        """
        if not pixels:
            return lambda: np.empty((0, self._embed_dim), dtype=np.float32)
        batch = self._transfer.stack(pixels)
        if self._normalize is not None and batch.dtype == torch.uint8:  # floats are normalized already
            batch = self._normalize(batch)
        return self._fetch(self._inference.encode_pixels(batch))

    def start_texts(self, ids: NDArray[np.int64] | Tensor) -> PendingFeatures:
        """Start to encode token ids (B, L), as `start_images` does images."""
        return self._fetch(self._inference.encode_tokens(torch.as_tensor(ids)))

    def _fetch(self, features: Tensor) -> PendingFeatures:
        wait, name = self._transfer.fetch(normalized(features)), self._inference.name
        return lambda: to_finite_array(wait(), name)
