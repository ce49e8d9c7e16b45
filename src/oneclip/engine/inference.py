"""A model in inference mode: checked tensors in, features out, through plans where there are any.

Shapes: B batch, L tokens, C classes, D joint embedding, H and W pixels.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from oneclip.config import as_pair
from oneclip.config.precision import PLAN_PRECISIONS, precision_name
from oneclip.engine.plan import make_image_plan, make_text_plan
from oneclip.engine.precision import check_plan_precision
from oneclip.errors import CheckpointError, ConfigError, ShapeError, TokenRangeError
from oneclip.model import CLIP, CustomTextCLIP, VisionTransformer
from oneclip.model.layers import lowest_precision

IMAGE, TEXT = 0, 1  # towers


class InferenceModel:
    """A model with the inference plans of its two towers.

    Args:
        model: on its device and in its precision; it is put in evaluation mode.
        image_size: (height, width) of its input images, in pixels.
        name: of the model in messages.
        precision: of the arithmetic: "fp32" or "bf16", on a CPU also "int8", on a GPU also "fp16"; the weights keep
            theirs. None for the precision of the weights.

    Raises:
        ConfigError: for a precision that has no plan on the model's device.
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
        self.precision = precision or precision_name(self.dtype)
        if precision is not None:
            check_plan_precision(precision, self.device.type)
        has_plans = precision is not None or self.precision in PLAN_PRECISIONS.get(self.device.type, ())
        self.plans = (
            (make_image_plan(model, self.precision), make_text_plan(model, self.precision))
            if has_plans
            else None
        )
        # the most elements of a batch for each tower, once a larger batch did not fit into the memory
        self._max_elements: list[float] = [math.inf, math.inf]

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Lowest precision among the weights; images are cast to it for the plain module."""
        return lowest_precision(self.model)

    @property
    def embed_dim(self) -> int | None:
        """D, or None if the image tower has no `output_dim`."""
        width: int | None = getattr(self.model.visual, "output_dim", None)
        return width

    @property
    def context_length(self) -> int:
        """Greatest number of tokens of a text."""
        return int(getattr(self.model.text_module(), "context_length", self.model.context_length))

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Encode preprocessed images: (B, 3, H, W) floats to (B, D).

        Raises:
            ShapeError: if the batch has another shape, or holds integers.
            ConfigError: if the image tower takes images of another size.
        """
        if pixels.shape[1:] != (3, *self.image_size) or not pixels.is_floating_point():
            height, width = self.image_size
            raise ShapeError(
                f"{self.name} takes floats of shape (B, 3, {height}, {width}); found {_described(pixels)}; "
                "make them with torch.stack([model.preprocess(image) for image in images])"
            )
        check_image_size(self.model.visual, self.image_size)
        return self._run(IMAGE, pixels.to(self.device))

    def encode_tokens(self, ids: Tensor) -> Tensor:
        """Encode token ids: (B, L) integers to (B, D).

        Raises:
            ShapeError: if ids have another shape, are not integers, or are too short for a tower that reads padding.
            TokenRangeError: if an id is outside of the vocabulary.
        """
        context, vocabulary = self.context_length, self.model.vocab_size
        integers = not (ids.is_floating_point() or ids.is_complex() or ids.dtype.itemsize == 1)
        shortest = context if self.model.text_pooling().reads_padding else 1
        if ids.dim() != 2 or not shortest <= ids.shape[1] <= context or not integers:
            length = (
                f"L from 1 to {context}" if shortest == 1 else f"L = {context} (it reads the padding, too)"
            )
            raise ShapeError(
                f"{self.name} takes integers of shape (B, L), {length}; found {_described(ids)}; "
                "make them with model.tokenizer(texts)"
            )
        if len(ids) and (ids.min() < 0 or ids.max() >= vocabulary):
            wrong = int(ids.min() if ids.min() < 0 else ids.max())
            raise TokenRangeError(
                f"token id {wrong} is outside the vocabulary of {self.name}, whose ids are 0 to "
                f"{vocabulary - 1}; was the text tokenized for another model?"
            )
        trimmed = self.model.trim_unseen(ids.long())  # trimming needs the ids on the CPU
        if self.device.type == "cuda" and trimmed.device.type == "cpu":
            # a copy from pinned memory does not block
            return self._run(TEXT, trimmed.pin_memory().to(self.device, non_blocking=True))
        return self._run(TEXT, trimmed.to(self.device))

    def describe(self) -> tuple[str, str]:
        """Say what computes images, and what computes texts, and why."""
        if self.plans is None:
            return (f"the plain module in {self.precision}",) * 2
        return self.plans[IMAGE].describe(), self.plans[TEXT].describe()

    def _run(self, tower: int, batch: Tensor) -> Tensor:
        """Run a tower on a batch; a batch that does not fit into the memory is halved.

        The size that fits is remembered for later batches.
        """
        if not len(batch):
            return torch.empty(0, self.embed_dim or 0, dtype=self.dtype, device=self.device)
        parts: list[Tensor] = []
        size = batch[0].numel()
        while len(batch):
            rows = max(1, min(len(batch), int(min(self._max_elements[tower], batch.numel()) // size)))
            try:
                with torch.inference_mode():
                    features = None if self.plans is None else self.plans[tower](batch[:rows])
                    if features is None and tower == IMAGE:
                        features = self.model.encode_image(batch[:rows].to(self.dtype), normalize=False)
                    elif features is None:
                        features = self.model.encode_text(batch[:rows], normalize=False)
                parts.append(features.clone())  # an ordinary tensor, which can be used with gradients
                batch = batch[rows:]
                continue
            except (RuntimeError, MemoryError) as error:
                if rows == 1 or not is_out_of_memory(error):
                    raise
            self._max_elements[tower] = size * ((rows + 1) // 2)
            if batch.device.type == "cuda":  # outside of `except`, where the error keeps its tensors alive
                torch.cuda.empty_cache()
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out, on a CPU or a GPU; a smaller batch may then fit."""
    phrases = (
        "not enough memory",
        "can't allocate memory",
        "out of memory",
        "could not create a memory",
        "ALLOC_FAILED",  # of cuBLAS and cuDNN
    )
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(p in str(error) for p in phrases)


def check_image_size(visual: nn.Module, size: tuple[int, int]) -> None:
    """Raise ConfigError unless an image tower takes images of a size, by its settings or by its resized positions."""
    own = getattr(visual, "fixed_size", getattr(visual, "image_size", None))
    if own is None or as_pair(own) == size:
        return
    if isinstance(visual, VisionTransformer):
        positions = len(visual.positional_embedding)
        if positions == _positions(visual, size) != _positions(visual, as_pair(own)):
            return
    height, width = as_pair(own)
    raise ConfigError(
        f"images are preprocessed to {size[0]} x {size[1]} pixels, but the model takes {height} x {width}: set "
        "model.preprocess to one of that size, or load the model with image_size="
    )


def _positions(visual: VisionTransformer, size: tuple[int, int]) -> int:
    rows, columns = (pixels // patch for pixels, patch in zip(size, as_pair(visual.patch_size), strict=True))
    return 1 + rows * columns


def resolve_device(device: str | torch.device | None) -> torch.device:
    """Return the device of a name; None for the first CUDA device, or the CPU if there is no CUDA device.

    Raises:
        ConfigError: if this machine has no such device.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
        return torch.device(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
        available = ", ".join(["cpu", *gpus, *(["mps"] if torch.backends.mps.is_available() else [])])
        raise ConfigError(f"{_device_problem(str(device))}; available: {available}") from error


def _device_problem(device: str) -> str:
    """Return the beginning of the error for a device that cannot be used."""
    try:
        torch.device(device)
    except RuntimeError:
        return f"unknown device {device!r}"
    return f"no device {device!r} on this machine"


def normalized(features: Tensor) -> Tensor:
    """Normalize features (B, D) to float32 of unit length, on their device."""
    return F.normalize(features.float(), dim=-1)


def mean_class_embeddings(features: Tensor, classes: int) -> Tensor:
    """Average the features (C * T, D) of T texts for each of C classes, those of a class in a row.

    Returns:
        (C, D): the mean of unit vectors, normalized again (Radford et al. 2021, section 3.1.4).
    """
    unit = F.normalize(features, dim=-1).reshape(classes, -1, features.shape[-1])
    return F.normalize(unit.mean(dim=1), dim=-1)


def logit_scale_and_bias(model: nn.Module) -> tuple[float, float | None]:
    """Return the factor of cosines, the exponential of a model's logit scale, and its logit bias, if it has one."""
    scale, bias = model.logit_scale, getattr(model, "logit_bias", None)
    assert isinstance(scale, Tensor)
    return float(scale.detach().float().exp()), None if bias is None else float(bias.detach())


def to_finite_array(embeddings: Tensor, name: str) -> NDArray[np.float32]:
    """Convert embeddings (B, D) of the model `name`, on the CPU, to an array.

    Raises:
        CheckpointError: if a number is not finite.
    """
    if not embeddings.isfinite().all():
        raise CheckpointError(
            f"{name} returns features that are not finite numbers: load it with precision='fp32'; if it is in fp32 "
            "already, its weights are damaged"
        )
    return np.asarray(embeddings)


def _described(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} of {str(tensor.dtype).removeprefix('torch.')}"
