"""A larger model to a teacher: batches as the student has them to the features that it learns from, too."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from oneclip import checkpoint
from oneclip.config import PreprocessCfg
from oneclip.config.training import TrainCfg
from oneclip.errors import ConfigError
from oneclip.train.autocast import computing_in
from oneclip.train.data.batches import Batch
from oneclip.train.forward import Features, Towers
from oneclip.train.initial_model import Start

PROBE = (
    "a photo of a dog",
    "Ein Haus, zwei Bäume",
    "1234 + x",
)  # ids of two tokenizers that are one are alike


def teacher_of(name: str, start: Start, train_cfg: TrainCfg) -> Callable[[Batch], Features]:
    """A function from a batch to what a model makes of it, without gradient.

    The teacher sees the very crops that the student sees, resized to the pixels that it takes, and computes in the
    student's precision and micro-batches.

    Args:
        name: whatever `oneclip.load` takes.
        start: the student.
        train_cfg: its training.

    Raises:
        ConfigError: if it reads captions by other tokens than the student.
        UnknownModelError: for a model that does not exist.
    """
    loaded = checkpoint.load(name, device=start.device)
    theirs, ours = loaded.tokenizer(), start.tokenizer
    lengths = (theirs.context_length or 0, ours.context_length or 0)
    is_same = (
        lengths[0] >= lengths[1]
        and theirs.pad_token_id == ours.pad_token_id
        and torch.equal(theirs(PROBE, lengths[1] or 77), ours(PROBE, lengths[1] or 77))
    )
    if not is_same:
        raise ConfigError(
            f"the teacher {name} reads captions by other tokens than the model; expected one of the same tokenizer and "
            f"at least {lengths[1]} tokens a caption"
        )
    towers = Towers(
        loaded.model.requires_grad_(False).eval(),
        text_groups=1,
        pad_id=start.prepare.pad_id,
        may_cut=start.prepare.crop_texts,
    )
    see = _Pixels(start.preprocess_cfg, loaded.preprocess_cfg)

    @torch.no_grad()
    def teach(batch: Batch) -> Features:
        assert isinstance(batch.texts, Tensor)
        size = train_cfg.micro_batch or len(batch.images)
        starts = range(0, len(batch.images), size)
        parts = [(batch.images[at : at + size], batch.texts[at : at + size]) for at in starts]
        with computing_in(train_cfg.precision, start.device):
            seen: list[Features] = [towers(see(images), texts) for images, texts in parts]
        image, text = (torch.cat([getattr(part, name) for part in seen]) for name in ("image", "text"))
        return seen[0]._replace(image=image, text=text)

    return teach


class _Pixels:
    """Pictures prepared for one model to pictures prepared for another.

    Args:
        student: how they were prepared.
        teacher: how they shall be.
    """

    def __init__(self, student: PreprocessCfg, teacher: PreprocessCfg) -> None:
        self._student, self._teacher = student, teacher
        size = teacher.size
        self._size = (size, size) if isinstance(size, int) else (size[0], size[1])

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 3, H', W')."""
        if images.shape[-2:] != self._size:
            images = F.interpolate(images, self._size, mode="bicubic", antialias=True)
        was, shall = self._student, self._teacher
        if (was.mean, was.std) == (shall.mean, shall.std):
            return images
        raw = images * _channels(was.std, images) + _channels(was.mean, images)
        return (raw - _channels(shall.mean, images)) / _channels(shall.std, images)


def _channels(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, device=like.device, dtype=like.dtype).view(1, -1, 1, 1)
