"""What runs a model for inference: tensors in, tensors out, without gradient; the same numbers, sooner."""

from oneclip.engine.accelerate import Accelerated, accelerate
from oneclip.engine.device_transfer import Transfer
from oneclip.engine.inference import (
    Towers,
    finite,
    is_out_of_memory,
    mean_features,
    normalized,
    temperature,
    usable_device,
)
from oneclip.engine.precision import DTYPES, PLANNED, automatic_precision

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
