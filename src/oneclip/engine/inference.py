"""The two towers of a model, through their plans where they have one: checked tensors in, features out.

This is the one place where an `Encoder` enters its model.

Shapes: B batch, L tokens, D joint embedding, H and W pixels.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from oneclip.engine.plan import image_plan, lowest_precision, text_plan
from oneclip.engine.precision import NAMES, PLANNED, check_precision
from oneclip.errors import CheckpointError, ConfigError, ShapeError, TokenRangeError
from oneclip.model import CLIP, CustomTextCLIP, VisionTransformer
from oneclip.model.text import TextTower
from oneclip.model.vision_common import pair


class Towers:
    """A model in inference mode.

    Args:
        model: on its device and in its precision; it is put in evaluation mode.
        image_size: (height, width) of the images that will be given, in pixels.
        name: what to call it in messages.
        precision: of what is computed, whatever that of the weights, which stay as they are: "fp32" or "bf16", on a
            CPU also "int8", on a GPU "fp16"; None for that of the weights.

    Raises:
        ConfigError: for a precision that is none.
    """

    def __init__(
        self,
        model: CLIP | CustomTextCLIP,
        image_size: tuple[int, int],
        name: str,
        precision: str | None = None,
    ) -> None:
        self.model = model.eval()
        self.image_size, self.name = image_size, name
        self.precision = precision or NAMES[self.dtype]
        if precision is not None:
            check_precision(precision, self.device.type)
        planned = precision is not None or self.precision in PLANNED.get(self.device.type, ())
        self.plans = (
            (image_plan(model, self.precision), text_plan(model, self.precision)) if planned else None
        )
        # numbers that a batch of pictures or of captions may hold, once more did not fit the memory
        self._most: list[float] = [math.inf, math.inf]

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What the plain module's pictures are cast to: the lowest precision among the weights."""
        return lowest_precision(self.model)

    @property
    def embed_dim(self) -> int | None:
        """D, if the visual tower says it."""
        width: int | None = getattr(self.model.visual, "output_dim", None)
        return width

    @property
    def context_length(self) -> int:
        """The most tokens of a text that the text tower takes."""
        return int(getattr(self.model._text_tower(), "context_length", self.model.context_length))

    def image(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) floats to (B, D).

        Raises:
            ShapeError: if the batch is not of that shape, or holds integers.
            ConfigError: if the images are made for another size than the visual tower takes.
        """
        if pixels.shape[1:] != (3, *self.image_size) or not pixels.is_floating_point():
            height, width = self.image_size
            raise ShapeError(
                f"{self.name} takes floats of shape (B, 3, {height}, {width}) and was given "
                f"{_described(pixels)}; make them with torch.stack([encoder.preprocess(i) for i in images])"
            )
        check_size(self.model.visual, self.image_size)
        return self._run(0, pixels.to(self.device))

    def text(self, ids: Tensor) -> Tensor:
        """(B, L) integers to (B, D).

        Raises:
            ShapeError: if ids are not of that shape, not integers, or too short for a tower that reads padding.
            TokenRangeError: if an id is outside the vocabulary.
        """
        context, vocabulary = self.context_length, self.model.vocab_size
        integers = not (ids.is_floating_point() or ids.is_complex() or ids.dtype.itemsize == 1)
        tower = self.model._text_tower()
        least = context if isinstance(tower, TextTower) and tower._reads_padding() else 1
        if ids.dim() != 2 or not least <= ids.shape[1] <= context or not integers:
            length = f"L from 1 to {context}" if least == 1 else f"L = {context} (it reads the padding, too)"
            raise ShapeError(
                f"{self.name} takes integers of shape (B, L), {length}, and was given {_described(ids)}; "
                "make them with encoder.tokenizer(texts)"
            )
        if len(ids) and (ids.min() < 0 or ids.max() >= vocabulary):
            worst = int(ids.min() if ids.min() < 0 else ids.max())
            raise TokenRangeError(
                f"token id {worst} is outside the vocabulary of {self.name}, whose ids are 0 to "
                f"{vocabulary - 1}; was the text tokenized for another model?"
            )
        trimmed = self.model.trim_unseen(ids.long())  # here, while the ids are still on the CPU
        if self.device.type == "cuda" and trimmed.device.type == "cpu":
            # from memory that stays in its place nobody waits for the copy
            return self._run(1, trimmed.pin_memory().to(self.device, non_blocking=True))
        return self._run(1, trimmed.to(self.device))

    def describe(self) -> tuple[str, str]:
        """What computes pictures, and what computes captions, and why."""
        if self.plans is None:
            return (f"the plain module in {self.precision}",) * 2
        return self.plans[0].describe(), self.plans[1].describe()

    def _run(self, side: int, batch: Tensor) -> Tensor:
        """A batch through the visual tower (0) or the text tower (1): in halves if it does not fit the memory.

        What did not fit is remembered, so that batches after it do not fail first.
        """
        if not len(batch):
            return torch.empty(0, self.embed_dim or 0, dtype=self.dtype, device=self.device)
        found: list[Tensor] = []
        size = batch[0].numel()
        while len(batch):
            rows = max(1, min(len(batch), int(min(self._most[side], batch.numel()) // size)))
            try:
                with torch.inference_mode():
                    features = self._compute(side, batch[:rows])
                found.append(
                    features.clone()
                )  # an ordinary tensor, which may enter a computation with gradient
                batch = batch[rows:]
                continue
            except (RuntimeError, MemoryError) as error:
                if rows == 1 or not is_out_of_memory(error):
                    raise
            self._most[side] = size * ((rows + 1) // 2)
            if batch.device.type == "cuda":  # out here, where the error no longer holds what was computed
                torch.cuda.empty_cache()
        return found[0] if len(found) == 1 else torch.cat(found)

    def _compute(self, side: int, batch: Tensor) -> Tensor:
        features = self.plans[side](batch) if self.plans is not None else None
        if features is not None:
            return features
        if side == 0:
            return self.model.encode_image(batch.to(self.dtype), normalize=False)
        return self.model.encode_text(batch, normalize=False)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was lacking, on a CPU or a GPU; fewer rows may then fit."""
    words = (
        "not enough memory",
        "can't allocate memory",
        "out of memory",
        "could not create a memory",
        "ALLOC_FAILED",  # of cuBLAS and cuDNN
    )
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(w in str(error) for w in words)


def check_size(visual: nn.Module, size: tuple[int, int]) -> None:
    """Raise ConfigError unless a visual tower takes images of a size; positions that were resized count."""
    own = getattr(visual, "fixed_size", getattr(visual, "image_size", None))
    if own is None or pair(own) == size:
        return
    if isinstance(visual, VisionTransformer):
        held = len(visual.positional_embedding)
        if held == _positions(visual, size) != _positions(visual, pair(own)):
            return
    height, width = pair(own)
    raise ConfigError(
        f"the images are preprocessed to {size[0]} x {size[1]} pixels, and the model takes {height} x {width}: set "
        "encoder.preprocess to the model's own, or load the model with image_size="
    )


def _positions(visual: VisionTransformer, size: tuple[int, int]) -> int:
    rows, columns = (pixels // patch for pixels, patch in zip(size, pair(visual.patch_size), strict=True))
    return 1 + rows * columns


def usable_device(device: str | torch.device | None) -> torch.device:
    """The device that was asked for; None for the first CUDA device if there is one, else the CPU.

    Raises:
        ConfigError: if there is no such device here.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
        return torch.device(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
        here = ", ".join(["cpu", *gpus, *(["mps"] if torch.backends.mps.is_available() else [])])
        raise ConfigError(f"unknown device {str(device)!r}; available: {here}") from error


def normalized(features: Tensor) -> Tensor:
    """(B, D) features to float32 of unit length, where they are."""
    return F.normalize(features.float(), dim=-1)


def mean_features(features: Tensor, classes: int) -> Tensor:
    """(C * T, D) features of T texts for each of C classes, those of a class in a row, to (C, D) of unit length.

    The mean of unit vectors, normalised again (Radford et al. 2021, section 3.1.4).
    """
    unit = F.normalize(features, dim=-1).reshape(classes, -1, features.shape[-1])
    return F.normalize(unit.mean(dim=1), dim=-1)


def temperature(model: nn.Module) -> tuple[float, float | None]:
    """What cosines are multiplied by, the exponentiated logit scale of a model, and its bias if it has one."""
    scale, bias = model.logit_scale, getattr(model, "logit_bias", None)
    assert isinstance(scale, Tensor)
    return float(scale.detach().float().exp()), None if bias is None else float(bias.detach())


def finite(unit: Tensor, name: str) -> NDArray[np.float32]:
    """(B, D) normalised features of model `name`, on the CPU, as an array.

    Raises:
        CheckpointError: if one of them is not finite.
    """
    if not unit.isfinite().all():
        raise CheckpointError(
            f"{name} gives features that are not finite numbers: load it with precision='fp32', or if that is what "
            "it has, its weights are damaged"
        )
    return np.asarray(unit)


def _described(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} of {str(tensor.dtype).removeprefix('torch.')}"
