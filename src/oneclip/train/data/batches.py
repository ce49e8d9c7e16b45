"""Batches of a training: their source, preparation for the model, and prefetching in threads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

from oneclip.config import PreprocessCfg
from oneclip.errors import ConfigError
from oneclip.image import Preprocess
from oneclip.model.text_pooling import TextPooling, crop_padding

if TYPE_CHECKING:
    from oneclip.encoder import Encoder


class Batch(NamedTuple):
    """Pairs of images and captions.

    `images`: (B, 3, H, W) float, preprocessed; or uint8, which `Prepare` normalizes.
    `texts`: (B, L) int64 token ids, or B captions, which `Prepare` tokenizes.
    `extra`: more tensors for a loss, first axis B, such as the embeddings of a teacher. These names have a meaning:
        `same` (B,) int64: pairs with the same number are not negatives of each other; `label` (B,) int64: classes;
        `negatives` (B, K, L) int64: token ids of K captions that do not match the image, encoded as
        `Features.negatives`.
    """

    images: Tensor
    texts: Tensor | Sequence[str]
    extra: Mapping[str, Tensor] = {}  # the default is never written to

    def pinned(self) -> Batch:
        """Copy the tensors to page-locked memory, so that copies to a CUDA device overlap with its work."""
        texts = self.texts.pin_memory() if isinstance(self.texts, Tensor) else self.texts
        return Batch(
            self.images.pin_memory(), texts, {key: value.pin_memory() for key, value in self.extra.items()}
        )


class BatchSource(Protocol):
    """Source of batches: `batch(step)` returns the same batch each time. A plain tuple may replace a `Batch`."""

    def batch(self, step: int, /) -> Batch | tuple[Tensor, Tensor | Sequence[str]]:
        """Return batch number `step`, counted from 0.

        Called ahead of use and in threads, so it must not use global random state.
        """
        ...


class Prepare:
    """Preparation of a batch for the model: tokenize, cut padding, move to the device, normalize.

    Args:
        tokenize: turns captions into (B, L) token ids; required if the source returns captions.
        preprocess: of the model, such as `oneclip.load(…).preprocess`. Its mean and standard deviation normalize uint8
            images. Required if the source returns uint8 images; there is no default.
        crop_texts: cut the ids after the longest caption of the batch. Exact only for causal towers that pool the
            end-of-text token (see `TextPooling.may_crop_padding`).
        pad_id: id of the padding after a caption.
    """

    def __init__(
        self,
        tokenize: Callable[[Sequence[str]], Tensor] | None = None,
        preprocess: Preprocess | PreprocessCfg | None = None,
        *,
        crop_texts: bool = False,
        pad_id: int = 0,
    ) -> None:
        self.tokenize, self.crop_texts, self.pad_id = tokenize, crop_texts, pad_id
        self.preprocess_cfg = preprocess.cfg if isinstance(preprocess, Preprocess) else preprocess

    @classmethod
    def for_model(cls, model: Encoder) -> Prepare:
        """Use the tokenizer and the preprocessing of a model, and cut padding where that is exact.

        Args:
            model: as `oneclip.load` returns it.
        """
        tokenizer = model.tokenizer
        return cls(
            tokenizer,
            model.preprocess,
            crop_texts=TextPooling.of_cfg(model.cfg.text_cfg).may_crop_padding,
            pad_id=tokenizer.pad_token_id,
        )

    def on_host(self, batch: Batch) -> Batch:
        """Tokenize the captions and cut their padding. Runs in the threads that read batches."""
        texts = batch.texts
        if not isinstance(texts, Tensor):
            if self.tokenize is None:
                raise ConfigError(
                    "the batches contain captions, and Prepare has no tokenizer; pass one, or let the source return "
                    "token ids"
                )
            texts = self.tokenize(texts)
        return batch._replace(texts=crop_padding(texts, self.pad_id) if self.crop_texts else texts)

    def on_device(self, batch: Batch, device: torch.device, channels_last: bool = False) -> Batch:
        """Move the tensors to the device, and normalize uint8 images there."""
        assert isinstance(batch.texts, Tensor)  # after on_host
        images = batch.images.to(device, non_blocking=True)
        if images.dtype == torch.uint8:
            images = self._normalize(images.float())
        if channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        extra = {key: value.to(device, non_blocking=True) for key, value in batch.extra.items()}
        return Batch(images, batch.texts.to(device, non_blocking=True), extra)

    def _normalize(self, images: Tensor) -> Tensor:
        """Normalize (B, 3, H, W) values from 0 to 255 with the mean and the standard deviation of the model."""
        cfg = self.preprocess_cfg
        if cfg is None:
            raise ConfigError(
                "the batches contain uint8 images, and Prepare does not know the model's mean and standard deviation; "
                "pass the model's preprocess (Prepare.for_model(model)), or let the source normalize the images"
            )
        mean, std = (255 * images.new_tensor(values).view(1, -1, 1, 1) for values in (cfg.mean, cfg.std))
        return (images - mean) / std


class Prefetcher:
    """Threads that read the batches of the next steps ahead of their use.

    Args:
        read: returns the batch of a step; depends on the step only.
        stop: the first step that is not read.
        depth: batches that are being read or waiting, at most.
        workers: number of threads.
    """

    def __init__(self, read: Callable[[int], Batch], *, stop: int, depth: int = 2, workers: int = 1) -> None:
        self._read, self._stop, self._depth = read, stop, depth
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="oneclip-batch")
        self._waiting: dict[int, Future[Batch]] = {}

    def get(self, step: int) -> Batch:
        """Return the batch of a step, and start reading the ones after it."""
        for ahead in range(step, min(step + self._depth + 1, self._stop)):
            if ahead not in self._waiting:
                self._waiting[ahead] = self._pool.submit(self._read, ahead)
        return self._waiting.pop(step).result()

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(self, *exc: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
