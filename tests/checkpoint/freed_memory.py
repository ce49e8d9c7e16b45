"""Fill memory with a number and free it, so that uninitialized tensors contain that number."""

from __future__ import annotations

import math

import torch

FILLINGS = (math.nan, 9.0)


def fill_freed_memory(value: float) -> None:
    """Fill blocks of all sizes that small models need, and free them."""
    blocks = [torch.full((2**power,), value) for power in range(2, 18) for _ in range(4)]
    del blocks
