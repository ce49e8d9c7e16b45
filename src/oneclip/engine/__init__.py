"""Fast inference on CPUs and GPUs: the numbers of the plain modules in less time, without gradients."""

from oneclip.engine.accelerate import Accelerated, accelerate
from oneclip.engine.device_transfer import DeviceTransfer
from oneclip.engine.inference import (
    InferenceModel,
    is_out_of_memory,
    logit_scale_and_bias,
    mean_class_embeddings,
    normalized,
    resolve_device,
    to_finite_array,
)
from oneclip.engine.precision import automatic_precision

__all__ = [
    "Accelerated",
    "DeviceTransfer",
    "InferenceModel",
    "accelerate",
    "automatic_precision",
    "is_out_of_memory",
    "logit_scale_and_bias",
    "mean_class_embeddings",
    "normalized",
    "resolve_device",
    "to_finite_array",
]
