"""What is evaluated: pictures and captions to unit vectors, by a finished encoder or by a model in training.

Shapes: N items, M of them that could be read, D joint embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneclip.engine import finite, temperature
from oneclip.image import Preprocess
from oneclip.image.prefetch import Picture, Skipped, read_ahead
from oneclip.text.batching.length_buckets import by_length

if TYPE_CHECKING:
    from oneclip.encoder import Encoder

Advance = Callable[[int], None]


class Subject(Protocol):
    """All that an evaluation asks of a model.

    One that shares the work among processes encodes its part in `pictures` and `captions`, and gathers there.
    """

    batch_size: int

    def pictures(self, pictures: Sequence[Picture]) -> tuple[Tensor, list[int], list[Skipped]]:
        """(M, D) float32 of unit length on the CPU, the index of each row's picture, and what could not be read."""
        ...

    def captions(self, captions: Sequence[str]) -> Tensor:
        """(N, D) float32 of unit length on the CPU; captions that are too long are cut."""
        ...

    def temperature(self) -> tuple[float, float | None]:
        """What cosines are multiplied by, and what is added to them, if anything is."""
        ...


class OfEncoder:
    """A finished encoder, with its precision and the plans that make it fast.

    Args:
        encoder: what `oneclip.load` gives.
        batch_size: pictures that go through it at once.
        advance: told how many pictures more are done.
    """

    def __init__(self, encoder: Encoder, *, batch_size: int = 32, advance: Advance | None = None) -> None:
        self.encoder, self.batch_size, self.advance = encoder, batch_size, advance

    def pictures(self, pictures: Sequence[Picture]) -> tuple[Tensor, list[int], list[Skipped]]:
        """See `Subject`."""
        features, kept, skipped = self.encoder.encode_images(
            pictures, batch_size=self.batch_size, on_error="skip", progress=self.advance or False
        )
        return torch.from_numpy(features), kept, skipped

    def captions(self, captions: Sequence[str]) -> Tensor:
        """See `Subject`."""
        return torch.from_numpy(self.encoder.encode_texts(captions, overflow="truncate"))

    def temperature(self) -> tuple[float, float | None]:
        """See `Subject`."""
        return self.encoder.logit_scale, self.encoder.logit_bias


class OfModule:
    """A model as it is, such as one in training: no plan is made of weights that the next step changes.

    Args:
        model: in evaluation mode; has `encode_image`, `encode_text` and `logit_scale`.
        preprocess: one picture to one tensor.
        tokenize: captions to (N, L) ids.
        pad_id: what follows a caption's last token.
        batch_size: pairs that a loss is taken over.
        micro_batch: pictures, or captions, that are encoded at once; None for `batch_size`.
        device: where the model is.
        computing: the context that forward passes run in, such as autocast.
        max_pixels: pictures of more cannot be read.
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
    ) -> None:
        self.model, self.preprocess, self.tokenize, self.pad_id = model, preprocess, tokenize, pad_id
        self.batch_size, self.device, self.computing = batch_size, torch.device(device), computing
        self.max_pixels, self._at_once = max_pixels, micro_batch or batch_size

    @torch.no_grad()
    def pictures(self, pictures: Sequence[Picture]) -> tuple[Tensor, list[int], list[Skipped]]:
        """See `Subject`."""
        features: list[Tensor] = []
        kept: list[int] = []
        skipped: list[Skipped] = []
        first = 0
        with closing(
            read_ahead(pictures, self.preprocess, self._at_once, max_pixels=self.max_pixels)
        ) as batches:
            for batch in batches:
                skipped += [one for one in batch if isinstance(one, Skipped)]
                pixels = [one for one in batch if isinstance(one, Tensor)]
                kept += [first + i for i, one in enumerate(batch) if isinstance(one, Tensor)]
                first += len(batch)
                if pixels:
                    features.append(self._encode("encode_image", torch.stack(pixels)))
        return torch.cat(features) if features else torch.empty(0, 0), kept, skipped

    @torch.no_grad()
    def captions(self, captions: Sequence[str]) -> Tensor:
        """See `Subject`."""
        features: Tensor | None = None
        for rows, ids in by_length(captions, self.tokenize, self._at_once, self.pad_id):
            part = self._encode("encode_text", ids)
            if features is None:
                features = part.new_empty(len(captions), part.shape[1])
            features[rows] = part
        return features if features is not None else torch.empty(0, 0)

    def temperature(self) -> tuple[float, float | None]:
        """See `Subject`."""
        return temperature(self.model)

    def _encode(self, tower: str, batch: Tensor) -> Tensor:
        with self.computing():
            features = getattr(self.model, tower)(batch.to(self.device))
        return torch.from_numpy(finite(F.normalize(features.float(), dim=-1).cpu(), "the model"))
