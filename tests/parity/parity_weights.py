"""Reproducible random weights, images and texts for two processes."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn


def fill(model: nn.Module) -> None:
    """Set all parameters and buffers to random values that depend only on name and shape."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.copy_(random_tensor(name, tensor))


@contextmanager
def without_initial_values() -> Iterator[None]:
    """Build models without drawing their initial weights, which takes seconds at full size; `fill` sets them."""

    def unchanged(tensor: Tensor, *_: Any, **__: Any) -> Tensor:
        return tensor

    with ExitStack() as patches:
        for name in [name for name in vars(nn.init) if name.endswith("_") and not name.startswith("_")]:
            patches.enter_context(mock.patch.object(nn.init, name, unchanged))
        yield


def random_tensor(name: str, like: Tensor) -> Tensor:
    """Draw values with a scale that keeps activations near one, as in a trained model."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    shape, last = tuple(like.shape), name.rpartition(".")[2]
    if not like.is_floating_point():
        return torch.zeros(shape, dtype=like.dtype)
    noise = torch.randn(shape, generator=generator)
    if last == "running_var":
        return (0.2 * noise).exp()
    if last == "logit_scale":
        return 2.0 + 0.1 * noise
    if last in ("gamma", "head_scale") or (last == "weight" and like.ndim == 1):
        return 1.0 + 0.2 * noise
    if like.ndim < 2 or "embedding" in name:
        return 0.3 * noise
    rows = shape[0] if last in ("proj", "text_projection") else like.numel() // shape[0]
    return noise * rows**-0.5


def random_images(count: int, size: int | tuple[int, int]) -> Tensor:
    """Make random images (count, 3, H, W)."""
    height, width = (size, size) if isinstance(size, int) else size
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(7))


def random_ids(count: int, length: int, vocab_size: int, eos_id: int | None = None) -> Tensor:
    """Make (count, length) ids: start of text, text, end of text, zeros; the last text fills its row."""
    generator = torch.Generator().manual_seed(11)
    text = torch.zeros(count, length, dtype=torch.long)
    for row in range(count):
        end = length - 1 if row == count - 1 else 3 + 5 * row % (length - 4)
        text[row, 0] = vocab_size - 2
        text[row, 1:end] = torch.randint(3, vocab_size - 2, (end - 1,), generator=generator)
        text[row, end] = vocab_size - 1 if eos_id is None else eos_id
    return text
