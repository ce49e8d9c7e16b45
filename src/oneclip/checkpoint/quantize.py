"""Quantize the weights of small models: the token table to 8 bits, everything else to 16 bits.

Most parameters of a small CLIP are in its token table (49,408 rows). Each row has its own scale, so that no value is
off by more than 1/254 of the largest value of its row.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from oneclip.errors import CheckpointError

TABLE = "token_embedding.weight"
SCALE = "token_embedding.scale"
LEVELS = 127


def quantize_state_dict(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the token table to int8 rows with fp16 scales, and all other floating-point tensors to fp16.

    Raises:
        CheckpointError: if a value is not finite, or too large for fp16.
    """
    small: dict[str, Tensor] = {}
    for name, tensor in state_dict.items():
        tensor = tensor.detach().cpu()
        if not tensor.is_floating_point():
            small[name] = tensor
        elif name.endswith(TABLE):
            rows, scale = quantize_rows(tensor)
            small[name], small[name.removesuffix(TABLE) + SCALE] = rows, scale
        else:
            small[name] = tensor.to(torch.float16)
        if tensor.is_floating_point() and not (small[name].isfinite().all() and tensor.isfinite().all()):
            raise CheckpointError(f"{name} has values that are not finite, or too large for fp16 (65,504)")
    return small


def quantize_rows(table: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize each row of a table; no value is off by more than half a scale.

    Args:
        table: (V, C), floating point.

    Returns:
        (V, C) int8 and the scales, (V, 1) fp16. Scales are rounded up, so that the largest value of a row is not
        clipped.
    """
    table = table.float()
    exact = table.abs().amax(dim=1, keepdim=True) / LEVELS  # (V, 1)
    scale = exact.to(torch.float16)
    scale = torch.where(
        scale.float() < exact, torch.nextafter(scale, torch.full_like(scale, torch.inf)), scale
    )
    if not scale.isfinite().all():
        raise CheckpointError("the token table has values that are not finite, or too large for fp16 scales")
    rows = torch.where(scale > 0, table / scale.float(), 0).round().clamp(-LEVELS, LEVELS)
    return rows.to(torch.int8), scale


def is_quantized(tensors: Mapping[str, Tensor]) -> bool:
    """Report whether tensors are in the form that `quantize_state_dict` returns."""
    return any(name.endswith(SCALE) for name in tensors)


def dequantize_state_dict(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert quantized tensors to those of a model, floating point in fp32.

    Raises:
        CheckpointError: if a table and its scales do not fit each other.
    """
    full: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(SCALE):
            continue
        if tensor.dtype == torch.int8:
            scale = tensors.get(name.removesuffix(TABLE) + SCALE)
            if scale is None or tensor.ndim != 2 or scale.shape != (len(tensor), 1):
                raise CheckpointError(
                    f"{name} is stored in 8 bits, and its scales are missing or have another shape"
                )
            full[name] = tensor.float() * scale.float()
        else:
            full[name] = tensor.float() if tensor.is_floating_point() else tensor
    return full
