"""A model to a small file and back: the token table in 8 bits, all else in 16.

Nearly all of a small CLIP is its token table (49,408 rows). A row keeps its largest value exact to 1 part in
254 of itself, with one scale a row.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from oneclip.errors import CheckpointError

TABLE = "token_embedding.weight"
SCALE = "token_embedding.scale"
LEVELS = 127


def quantised(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as they are stored: int8 rows with fp16 scales for the token table, fp16 for all other floats.

    Raises:
        CheckpointError: if a value is not finite, or too large for fp16.
    """
    small: dict[str, Tensor] = {}
    for name, tensor in state_dict.items():
        tensor = tensor.detach().cpu()
        if not tensor.is_floating_point():
            small[name] = tensor
        elif name.endswith(TABLE):
            rows, scale = quantise_rows(tensor)
            small[name], small[name.removesuffix(TABLE) + SCALE] = rows, scale
        else:
            small[name] = tensor.to(torch.float16)
        if tensor.is_floating_point() and not (small[name].isfinite().all() and tensor.isfinite().all()):
            raise CheckpointError(f"{name} holds values that are not finite, or too large for fp16 (65,504)")
    return small


def quantise_rows(table: Tensor) -> tuple[Tensor, Tensor]:
    """A table of floats (V, C) to int8 (V, C) and fp16 scales (V, 1); no value is off by more than half a
    scale.

    The scale is rounded up, so that the largest value of a row is not cut off.
    """
    table = table.float()
    exact = table.abs().amax(dim=1, keepdim=True) / LEVELS  # (V, 1)
    scale = exact.to(torch.float16)
    scale = torch.where(
        scale.float() < exact, torch.nextafter(scale, torch.full_like(scale, torch.inf)), scale
    )
    if not scale.isfinite().all():
        raise CheckpointError(
            "the token table holds values that are not finite, or too large for fp16 scales"
        )
    rows = torch.where(scale > 0, table / scale.float(), 0).round().clamp(-LEVELS, LEVELS)
    return rows.to(torch.int8), scale


def is_quantised(tensors: Mapping[str, Tensor]) -> bool:
    """Whether tensors are stored as `quantised` makes them."""
    return any(name.endswith(SCALE) for name in tensors)


def dequantised(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as a model has them, floats in fp32.

    Raises:
        CheckpointError: if a table and its scales do not belong together.
    """
    full: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(SCALE):
            continue
        if tensor.dtype == torch.int8:
            scale = tensors.get(name.removesuffix(TABLE) + SCALE)
            if scale is None or tensor.ndim != 2 or scale.shape != (len(tensor), 1):
                raise CheckpointError(
                    f"{name} is stored in 8 bits, and its scales are missing or of another shape"
                )
            full[name] = tensor.float() * scale.float()
        else:
            full[name] = tensor.float() if tensor.is_floating_point() else tensor
    return full
