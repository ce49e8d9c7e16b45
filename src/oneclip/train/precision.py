"""The name of a precision to the context that computes in it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextlib.contextmanager
def computing_in(precision: str, device: torch.device) -> Iterator[None]:
    """Run forward passes in "fp32", or in "bf16" by autocast: weights, norms and residual sums stay fp32."""
    if precision != "bf16":
        yield
    elif device.type != "cpu":
        with torch.autocast(device.type, torch.bfloat16):
            yield
    else:  # the fused attention's bf16 backward takes 6 times as long at 10 tokens, twice as long at 77
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            yield
