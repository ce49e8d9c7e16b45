"""Names of the numeric precisions, and where each of them can be used. Importing this loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING

from oneclip.errors import ConfigError

if TYPE_CHECKING:
    import torch


class PrecisionChoice(str, Enum):
    """Precisions that a model can be loaded in."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"
    int8 = "int8"
    auto = "auto"


TORCH_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
FLOAT_PRECISIONS = tuple(TORCH_NAMES)  # of stored weights, and of training
PRECISIONS = (*FLOAT_PRECISIONS, "int8")  # of inference
LOAD_PRECISIONS = tuple(choice.value for choice in PrecisionChoice)  # that `oneclip.load` accepts
# precisions that have an inference plan, by device type; fp16 on a CPU runs the plain module
PLAN_PRECISIONS = {"cpu": ("fp32", "bf16", "int8"), "cuda": ("fp32", "bf16", "fp16")}


def check_precision(precision: str, allowed: Sequence[str] = PRECISIONS, where: str = "") -> None:
    """Raise ConfigError if a precision is not one of those that are allowed `where` it is used."""
    if precision not in allowed:
        raise ConfigError(f"precision is {precision!r}; expected one of {', '.join(allowed)}{where}")


def torch_dtype(precision: str) -> torch.dtype:
    """Return the torch dtype of "fp32", "bf16" or "fp16"."""
    import torch

    dtype: torch.dtype = getattr(torch, TORCH_NAMES[precision])
    return dtype


def precision_name(dtype: torch.dtype) -> str:
    """Return the name of a dtype: "fp32", "bf16" or "fp16".

    Raises:
        ConfigError: for any other dtype.
    """
    for name, torch_name in TORCH_NAMES.items():
        if str(dtype) == f"torch.{torch_name}":
            return name
    raise ConfigError(f"models compute in {', '.join(FLOAT_PRECISIONS)}; found weights in {dtype}")
