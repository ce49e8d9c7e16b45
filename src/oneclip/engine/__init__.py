"""What runs a model for inference: tensors in, tensors out, without gradient."""

from oneclip.engine.towers import Towers, unit_vectors, usable_device

__all__ = ["Towers", "unit_vectors", "usable_device"]
