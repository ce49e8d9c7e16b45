"""A step number to a batch on the device: a source, threads that ask it ahead, and the way to a device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

from oneclip.config import CLIPTextCfg, PreprocessCfg
from oneclip.errors import ConfigError
from oneclip.image import Preprocess

if TYPE_CHECKING:
    from oneclip.encoder import Encoder


class Batch(NamedTuple):
    """Pairs of pictures and captions.

    `images` (B, 3, H, W): float, preprocessed; or uint8, which `Prepare` normalises.
    `texts`: (B, L) int64 token ids, or B captions, which `Prepare` tokenizes.
    `extra`: further tensors that a loss wants, first axis B, such as the embeddings of a teacher. Some names mean
        something: `same` (B,) int64, pairs of one number are no negatives of each other; `label` (B,) int64, classes;
        `negatives` (B, K, L) int64, ids of K captions that do not fit each image, which are encoded as
        `Features.negatives`.
    """

    images: Tensor
    texts: Tensor | Sequence[str]
    extra: Mapping[str, Tensor] = {}  # a default that nothing writes to

    def pinned(self) -> Batch:
        """Tensors in page-locked memory, from which copies to a CUDA device run beside its work."""
        texts = self.texts.pin_memory() if isinstance(self.texts, Tensor) else self.texts
        return Batch(
            self.images.pin_memory(), texts, {key: value.pin_memory() for key, value in self.extra.items()}
        )


class BatchSource(Protocol):
    """Anything that makes batch number `step`, the same one each time. A plain tuple will do as a Batch."""

    def batch(self, step: int, /) -> Batch | tuple[Tensor, Tensor | Sequence[str]]:
        """Batch number `step`, from 0. Called in threads, ahead of its use: no global random state."""
        ...


class Prepare:
    """What happens to a batch between its source and the model: tokenize, crop, move, normalise.

    Args:
        tokenize: captions to (B, L) ids; needed if the source gives captions.
        preprocess: that of the model, such as `oneclip.load(…).preprocess`: its mean and deviation normalise uint8
            images. Needed if the source gives any; no other values are guessed.
        crop_texts: cut ids after the longest caption of the batch. Exact only for causal towers pooled at the
            end of text (see `is_crop_exact`).
        pad_id: what fills the ids after a caption.
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
    def of(cls, clip: Encoder) -> Prepare:
        """What a model wants: its tokenizer and preprocessing, captions cut where that is exact.

        Args:
            clip: what `oneclip.load` gives.
        """
        tokenizer = clip.tokenizer
        return cls(
            tokenizer,
            clip.preprocess,
            crop_texts=is_crop_exact(clip.cfg.text_cfg),
            pad_id=tokenizer.pad_token_id,
        )

    def on_host(self, batch: Batch) -> Batch:
        """Captions to ids as long as the longest one; runs in the threads that make batches."""
        texts = batch.texts
        if not isinstance(texts, Tensor):
            if self.tokenize is None:
                raise ConfigError(
                    "the batches hold captions: give Prepare a tokenizer, or have the source give token ids"
                )
            texts = self.tokenize(texts)
        return batch._replace(texts=crop_to_longest(texts, self.pad_id) if self.crop_texts else texts)

    def on_device(self, batch: Batch, device: torch.device, channels_last: bool = False) -> Batch:
        """Tensors to the device, uint8 pictures normalised there."""
        assert isinstance(batch.texts, Tensor)  # made so by on_host
        images = batch.images.to(device, non_blocking=True)
        if images.dtype == torch.uint8:
            images = self._normalised(images.float())
        if channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        extra = {key: value.to(device, non_blocking=True) for key, value in batch.extra.items()}
        return Batch(images, batch.texts.to(device, non_blocking=True), extra)

    def _normalised(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) values from 0 to 255 as the model takes them."""
        cfg = self.preprocess_cfg
        if cfg is None:
            raise ConfigError(
                "the batches hold uint8 images, and nothing says how the model normalises them: give Prepare the "
                "model's preprocess (Prepare.of(clip)), or have the source normalise them"
            )
        mean, std = (255 * images.new_tensor(values).view(1, -1, 1, 1) for values in (cfg.mean, cfg.std))
        return (images - mean) / std


def crop_to_longest(ids: Tensor, pad_id: int = 0) -> Tensor:
    """(B, L) ids without the columns that only pad; at least one column stays."""
    used = (ids != pad_id).any(dim=0).nonzero()
    return ids[:, : int(used[-1]) + 1] if len(used) else ids[:, :1]


def is_crop_exact(cfg: CLIPTextCfg) -> bool:
    """Whether a text tower computes the same from ids cut after the longest caption."""
    is_causal = not cfg.no_causal_mask and not cfg.embed_cls and cfg.hf_model_name is None
    return is_causal and cfg.pool_type in ("argmax", "eos", "first")


class Prefetcher:
    """Makes the items of consecutive steps in threads, ahead of their use.

    Args:
        make: the item of a step; a pure function of the step.
        last: no item at or past this step is made.
        ahead: items in the making or waiting, at most.
        workers: threads.
    """

    def __init__(self, make: Callable[[int], Batch], *, last: int, ahead: int = 2, workers: int = 1) -> None:
        self._make, self._last, self._ahead = make, last, ahead
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="oneclip-batch")
        self._waiting: dict[int, Future[Batch]] = {}

    def get(self, step: int) -> Batch:
        """The item of a step; those after it are put in the making."""
        for ahead in range(step, min(step + self._ahead + 1, self._last)):
            if ahead not in self._waiting:
                self._waiting[ahead] = self._pool.submit(self._make, ahead)
        return self._waiting.pop(step).result()

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(self, *exc: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
