"""Teacher of a distillation: features of a larger model for the batches of the student."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from oneclip import checkpoint
from oneclip.config import PreprocessCfg, as_pair
from oneclip.config.training import TrainCfg
from oneclip.errors import ConfigError
from oneclip.train.autocast import autocast_to
from oneclip.train.data.batches import Batch
from oneclip.train.forward import Features, TrainingForward
from oneclip.train.initial_model import InitialModel

# if two tokenizers give these the same ids, they are the same
PROBE = ("a photo of a dog", "Ein Haus, zwei Bäume", "1234 + x")


def load_teacher(name: str, start: InitialModel, train_cfg: TrainCfg) -> Callable[[Batch], Features]:
    """Load a teacher, and return a function that computes its features for a batch, without gradients.

    The teacher gets the crops of the student, resized to its own image size. It uses the precision and the
    micro-batches of the student.

    Args:
        name: any argument of `oneclip.load`.
        start: the student.
        train_cfg: settings of its trainer.

    Raises:
        ConfigError: if its tokenizer differs from that of the student.
        UnknownModelError: if the model does not exist.
    """
    loaded = checkpoint.load(name, device=start.device)
    teacher_tokenizer, tokenizer = loaded.tokenizer(), start.tokenizer
    lengths = (teacher_tokenizer.context_length or 0, tokenizer.context_length or 0)
    is_same = (
        lengths[0] >= lengths[1]
        and teacher_tokenizer.pad_token_id == tokenizer.pad_token_id
        and torch.equal(teacher_tokenizer(PROBE, lengths[1] or 77), tokenizer(PROBE, lengths[1] or 77))
    )
    if not is_same:
        raise ConfigError(
            f"the teacher {name} has another tokenizer than the model; expected the same tokenizer and a context of at "
            f"least {lengths[1]} tokens"
        )
    towers = TrainingForward(
        loaded.model.requires_grad_(False).eval(),
        text_length_buckets=1,
        pad_id=start.prepare.pad_id,
        may_cut=start.prepare.crop_texts,
    )
    convert = _ImageConverter(start.preprocess_cfg, loaded.preprocess_cfg)

    @torch.no_grad()
    def teach(batch: Batch) -> Features:
        assert isinstance(batch.texts, Tensor)
        size = train_cfg.micro_batch or len(batch.images)
        starts = range(0, len(batch.images), size)
        parts = [(batch.images[at : at + size], batch.texts[at : at + size]) for at in starts]
        with autocast_to(train_cfg.precision, start.device):
            computed: list[Features] = [towers(convert(images), texts) for images, texts in parts]
        image, text = (torch.cat([getattr(part, name) for part in computed]) for name in ("image", "text"))
        return computed[0]._replace(image=image, text=text)

    return teach


class _ImageConverter:
    """Conversion of images prepared for one model to the preprocessing of another.

    Args:
        student: preprocessing of the images.
        teacher: wanted preprocessing.
    """

    def __init__(self, student: PreprocessCfg, teacher: PreprocessCfg) -> None:
        self._student, self._teacher = student, teacher
        size = teacher.size
        self._size = as_pair(size)

    def __call__(self, images: Tensor) -> Tensor:
        """Convert (B, 3, H, W) images to (B, 3, H', W')."""
        if images.shape[-2:] != self._size:
            images = F.interpolate(images, self._size, mode="bicubic", antialias=True)
        source, target = self._student, self._teacher
        if (source.mean, source.std) == (target.mean, target.std):
            return images
        raw = images * _channels(source.std, images) + _channels(source.mean, images)
        return (raw - _channels(target.mean, images)) / _channels(target.std, images)


def _channels(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, device=like.device, dtype=like.dtype).view(1, -1, 1, 1)
