"""Feature extractors that an evaluation runs on: a loaded encoder, or a model in training.

Shapes: N items, M of them readable, D joint embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneclip.engine import logit_scale_and_bias, to_finite_array
from oneclip.image import ImageSource, Preprocess, Truncated
from oneclip.image.prefetch import SkippedImage, prefetch_images
from oneclip.text.batching.length_buckets import bucket_by_length

if TYPE_CHECKING:
    from oneclip.encoder import Encoder

AdvanceCallback = Callable[[int], None]


class FeatureExtractor(Protocol):
    """Everything that an evaluation needs of a model.

    An implementation that shares the work among processes encodes its own part in `encode_images` and
    `encode_texts`, and gathers all parts there.

    Attributes:
        batch_size: pairs in a batch of the contrastive loss.
    """

    batch_size: int

    def encode_images(self, images: Sequence[ImageSource]) -> tuple[Tensor, list[int], list[SkippedImage]]:
        """Encode images.

        Returns:
            (M, D) float32 embeddings of unit length on the CPU, the index of each row's image, and the images that
            could not be read.
        """
        ...

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Encode texts, truncating those that are too long.

        Returns:
            (N, D) float32 embeddings of unit length on the CPU.
        """
        ...

    def logit_scale_and_bias(self) -> tuple[float, float | None]:
        """Return the factor of the cosines, and the bias that is added, or None."""
        ...


class EncoderAdapter:
    """Feature extractor that uses a loaded encoder, with its precision and inference plans.

    Args:
        encoder: from `oneclip.load`.
        batch_size: images per forward pass.
        advance: called with the number of images that were just done.
    """

    def __init__(
        self, encoder: Encoder, *, batch_size: int = 32, advance: AdvanceCallback | None = None
    ) -> None:
        self.encoder, self.batch_size, self.advance = encoder, batch_size, advance

    def encode_images(self, images: Sequence[ImageSource]) -> tuple[Tensor, list[int], list[SkippedImage]]:
        """See `FeatureExtractor`."""
        embeddings, kept, skipped = self.encoder.encode_images(
            images, batch_size=self.batch_size, on_error="skip", progress=self.advance or False
        )
        return torch.from_numpy(embeddings), kept, skipped

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """See `FeatureExtractor`."""
        return torch.from_numpy(self.encoder.encode_texts(texts, overflow="truncate"))

    def logit_scale_and_bias(self) -> tuple[float, float | None]:
        """See `FeatureExtractor`."""
        return self.encoder.logit_scale, self.encoder.logit_bias


class ModuleAdapter:
    """Feature extractor that calls a module directly, such as a model in training.

    No inference plan is made, because the next training step would change its weights.

    Args:
        model: in evaluation mode; has `encode_image`, `encode_text` and `logit_scale`.
        preprocess: makes a tensor of an image.
        tokenize: makes (N, L) token ids of texts.
        pad_id: the id after a text's last token.
        batch_size: pairs in a batch of the loss.
        micro_batch: images or texts per forward pass; None for `batch_size`.
        device: of the model.
        computing: makes the context of a forward pass, such as autocast.
        max_pixels: images with more pixels are skipped.
        truncated: "refuse" (skip) or "accept" image files whose pixel data is incomplete.
    """

    def __init__(
        self,
        model: nn.Module,
        preprocess: Preprocess,
        tokenize: Callable[[Sequence[str]], Tensor],
        *,
        pad_id: int = 0,
        batch_size: int = 64,
        micro_batch: int | None = None,
        device: str | torch.device = "cpu",
        computing: Callable[[], AbstractContextManager[None]] = nullcontext,
        max_pixels: int | None = None,
        truncated: Truncated = "refuse",
    ) -> None:
        self.model, self.preprocess, self.tokenize, self.pad_id = model, preprocess, tokenize, pad_id
        self.batch_size, self.device, self.computing = batch_size, torch.device(device), computing
        self.max_pixels, self.truncated = max_pixels, truncated
        self._micro_batch = micro_batch or batch_size

    @torch.no_grad()
    def encode_images(self, images: Sequence[ImageSource]) -> tuple[Tensor, list[int], list[SkippedImage]]:
        """See `FeatureExtractor`."""
        embeddings: list[Tensor] = []
        kept: list[int] = []
        skipped: list[SkippedImage] = []
        first = 0
        with closing(
            prefetch_images(
                images,
                self.preprocess,
                self._micro_batch,
                max_pixels=self.max_pixels,
                truncated=self.truncated,
            )
        ) as batches:
            for batch in batches:
                skipped += [one for one in batch if isinstance(one, SkippedImage)]
                pixels = [one for one in batch if isinstance(one, Tensor)]
                kept += [first + i for i, one in enumerate(batch) if isinstance(one, Tensor)]
                first += len(batch)
                if pixels:
                    embeddings.append(self._encode("encode_image", torch.stack(pixels)))
        return torch.cat(embeddings) if embeddings else torch.empty(0, 0), kept, skipped

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """See `FeatureExtractor`."""
        embeddings: Tensor | None = None
        for rows, ids in bucket_by_length(texts, self.tokenize, self._micro_batch, self.pad_id):
            part = self._encode("encode_text", ids)
            if embeddings is None:
                embeddings = part.new_empty(len(texts), part.shape[1])
            embeddings[rows] = part
        return embeddings if embeddings is not None else torch.empty(0, 0)

    def logit_scale_and_bias(self) -> tuple[float, float | None]:
        """See `FeatureExtractor`."""
        return logit_scale_and_bias(self.model)

    def _encode(self, method: str, batch: Tensor) -> Tensor:
        with self.computing():
            features = getattr(self.model, method)(batch.to(self.device))
        return torch.from_numpy(to_finite_array(F.normalize(features.float(), dim=-1).cpu(), "the model"))
