"""The name of a precision to the context that computes in it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextlib.contextmanager
def computing_in(precision: str, device: torch.device) -> Iterator[None]:
    """Run forward passes in "fp32", or in "bf16" or "fp16" by autocast: weights, norms and residual sums stay fp32."""
    if precision == "fp32":
        yield
        return
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    if device.type != "cpu":
        with torch.autocast(device.type, dtype):
            yield
    else:  # the fused attention's bf16 backward takes 6 times as long at 10 tokens, twice as long at 77
        with torch.autocast("cpu", dtype), sdpa_kernel(SDPBackend.MATH):
            yield
