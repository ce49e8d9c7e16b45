"""What runs a model for inference: tensors in, tensors out, without gradient; the same numbers, sooner."""

from oneclip.engine.facade import Accelerated, accelerate
from oneclip.engine.machine import automatic_precision
from oneclip.engine.towers import Towers, unit_vectors, usable_device

__all__ = ["Accelerated", "Towers", "accelerate", "automatic_precision", "unit_vectors", "usable_device"]
