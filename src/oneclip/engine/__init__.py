"""What runs a model for inference: tensors in, tensors out, without gradient; the same numbers, sooner."""

from oneclip.engine.facade import Accelerated, accelerate
from oneclip.engine.machine import DTYPES, PLANNED, automatic_precision
from oneclip.engine.towers import (
    Towers,
    finite,
    is_out_of_memory,
    mean_features,
    normalized,
    temperature,
    usable_device,
)
from oneclip.engine.transfer import Transfer

__all__ = [
    "DTYPES",
    "PLANNED",
    "Accelerated",
    "Towers",
    "Transfer",
    "accelerate",
    "automatic_precision",
    "finite",
    "is_out_of_memory",
    "mean_features",
    "normalized",
    "temperature",
    "usable_device",
]
