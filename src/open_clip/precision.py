"""Precisions by name: dtypes of weights and inputs, and conversion of models."""

from __future__ import annotations

import torch
from torch import nn

from oneclip.errors import ConfigError
from oneclip.model import CLIP, Attention, LayerNorm, TextTransformer, VisionTransformer

__all__ = ["convert_weights_to_fp16", "convert_weights_to_lp", "get_cast_dtype", "get_input_dtype"]

PRECISIONS = ("fp32", "amp", "amp_bf16", "amp_bfloat16", "fp16", "bf16", "pure_fp16", "pure_bf16")
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def get_cast_dtype(precision: str) -> torch.dtype | None:
    """Return the dtype of the converted weights for "fp16" and "bf16"; None for every other precision."""
    return DTYPES.get(precision)


def get_input_dtype(precision: str) -> torch.dtype | None:
    """Return the dtype of images for a model of this precision; None if they need no conversion."""
    return DTYPES.get(precision.removeprefix("pure_"))


def convert_weights_to_lp(model: nn.Module, dtype: torch.dtype = torch.float16) -> None:
    """Convert convolutions, linear layers, attention and projections, in place; norms and embeddings stay."""
    for module in model.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear)):
            _convert(module, ("weight", "bias"), dtype)
        if isinstance(module, (nn.MultiheadAttention, Attention)):
            weights = [f"{name}_proj_weight" for name in ("in", "q", "k", "v")]
            _convert(module, (*weights, "in_proj_bias", "bias_k", "bias_v"), dtype)
        if isinstance(module, (CLIP, TextTransformer)):
            _convert(module, ("text_projection",), dtype)
        if isinstance(module, VisionTransformer):
            _convert(module, ("proj",), dtype)


convert_weights_to_fp16 = convert_weights_to_lp


def check_precision(precision: str) -> None:
    """Raise ConfigError for an unknown precision."""
    if precision not in PRECISIONS:
        raise ConfigError(f"precision is {precision!r}; expected one of {', '.join(PRECISIONS)}")


def to_precision(model: nn.Module, precision: str, whole_tower: bool = False) -> None:
    """Convert a model's weights, in place.

    Args:
        model: in fp32.
        precision: "fp32" and the "amp" precisions keep the weights; "pure_fp16" and "pure_bf16" convert all of
            them; "fp16" and "bf16" convert those that `convert_weights_to_lp` does.
        whole_tower: for "fp16" and "bf16", convert all weights except the norms of our own towers. Needed for timm
            towers, whose norms compute in the dtype of their input.
    """
    if precision.startswith("pure_"):
        model.to(dtype=get_input_dtype(precision))
    elif (dtype := get_cast_dtype(precision)) is None:
        return
    elif not whole_tower:
        convert_weights_to_lp(model, dtype)
    else:
        model.to(dtype=dtype)
        for name, module in model.named_modules():
            if isinstance(module, LayerNorm) and not name.startswith("visual.trunk."):
                module.float()


def _convert(module: nn.Module, names: tuple[str, ...], dtype: torch.dtype) -> None:
    for name in names:
        parameter = getattr(module, name, None)
        if isinstance(parameter, nn.Parameter):
            parameter.data = parameter.data.to(dtype)
