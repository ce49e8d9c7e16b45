"""Weights of a linear layer to a function that computes it, packed for one precision and this processor.

Shapes: (..., K) inputs, (..., N) outputs.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

Linear = Callable[[Tensor], Tensor]

# what may follow a linear layer: as a function, and as oneDNN calls it (post-operation, arguments, algorithm)
Activation = tuple[Callable[[Tensor], Tensor], tuple[str, list[float], str]]
ACTIVATIONS: dict[str, Activation] = {
    "none": (lambda x: x, ("none", [], "")),
    "gelu": (F.gelu, ("gelu", [], "none")),
    "gelu_tanh": (lambda x: F.gelu(x, approximate="tanh"), ("gelu", [], "tanh")),
    "silu": (F.silu, ("swish", [], "")),
}


class Pack(Protocol):
    """Packs (N, K) weights and an (N,) bias: what it gives computes `activation(x @ weight.T + bias)`."""

    def __call__(self, weight: Tensor, bias: Tensor | None, activation: str = "none") -> Linear: ...


class PlainLinear:
    """torch's own, in a precision of choice: what is left where oneDNN is not."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        activation: str = "none",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.weight, self.bias = weight.to(dtype), None if bias is None else bias.to(dtype)
        self.activate = ACTIVATIONS[activation][0]

    def __call__(self, x: Tensor) -> Tensor:
        return self.activate(F.linear(x.to(self.weight.dtype), self.weight, self.bias))


class PackedLinear:
    """oneDNN's, in fp32 or bf16: weights in the order its kernels read them, bias and activation in the same pass.

    `torch.nn.functional.linear` reorders bf16 weights at each call, and in fp32 calls MKL, which takes no AVX-512 path
    on processors that are not Intel's. These are the operators that torch's own compiler emits.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        activation: str = "none",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.dtype, self.post = dtype, ACTIVATIONS[activation][1]
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.to(dtype).contiguous())
        self.bias = None if bias is None else bias.to(dtype)

    def __call__(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x.to(self.dtype), self.weight, self.bias, *self.post)
        return y


class Int8Linear:
    """oneDNN's in int8: a scale for each output channel's weights, one for all inputs, found anew at each call.

    Weights are symmetric, -127 to 127 or half of that, see `greatest_level`. Inputs are 0 to 255 with a zero point
    between their least and their greatest; the sum is exact in 32 bits, and comes out in `dtype`, or in fp32 behind an
    activation: a linear layer follows then, which quantises from that.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        activation: str = "none",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        weight = weight.float()
        greatest = weight.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
        self.scale = greatest / greatest_level()
        rounded = (weight / self.scale[:, None]).round().to(torch.int8)
        self.weight = torch.ops.onednn.qlinear_prepack(rounded.contiguous(), None)
        self.zero = torch.zeros(len(weight), dtype=torch.int32)
        self.bias = None if bias is None else bias.float()
        self.dtype = dtype if activation == "none" else torch.float32
        self.post = ACTIVATIONS[activation][1]

    def __call__(self, x: Tensor) -> Tensor:
        levels, scale, zero = quantise(x.float())
        y: Tensor = torch.ops.onednn.qlinear_pointwise(
            levels, scale, zero, self.weight, self.scale, self.zero, self.bias, 1.0, 0, self.dtype, *self.post
        )
        return y


def quantise(x: Tensor) -> tuple[Tensor, float, int]:
    """Floats to (uint8, scale, zero point): x is nearly scale * (uint8 - zero point), and 0 stays exactly 0."""
    low, high = (float(bound) for bound in torch.aminmax(x))
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255
    if not 0 < scale < float("inf"):  # all zero, or not finite: what follows must stay so
        return torch.zeros_like(x, dtype=torch.uint8), high - low, 0
    zero = round(-low / scale)
    if not hasattr(torch, "quantize_per_tensor"):  # which is to go, and takes a third of the time
        return (
            torch.add(torch.tensor(zero + 0.5, dtype=torch.float32), x, alpha=1 / scale)
            .clamp_(0, 255)
            .to(torch.uint8),
            scale,
            zero,
        )
    levels = torch.quantize_per_tensor(x, scale, zero, torch.quint8)
    # its bytes as they are: `int_repr` would copy them
    bytes_ = torch.empty(0, dtype=torch.uint8)
    return bytes_.set_(levels.untyped_storage(), 0, levels.shape, levels.stride()), scale, zero


@cache
def greatest_level() -> int:
    """The greatest int8 weight whose products are summed exactly on this processor: 127, or 63.

    x86 processors without VNNI add products of pairs in 16 bits (`vpmaddubsw`), which saturate: 2 * 255 * 127 does not
    fit, 2 * 255 * 63 does. Found out by a product, since torch reports only one of the two forms of VNNI.
    """
    weight = torch.full((64, 64), 127, dtype=torch.int8)
    zero = torch.zeros(64, dtype=torch.int32)
    packed = torch.ops.onednn.qlinear_prepack(weight, None)
    levels, scale = torch.full((64, 64), 255, dtype=torch.uint8), torch.ones(64)
    arguments: tuple[Any, ...] = (packed, scale, zero, None, 1.0, 0, torch.float32, "none", [], "")
    product = torch.ops.onednn.qlinear_pointwise(levels, 1.0, 0, *arguments)
    return 127 if bool((product == 64 * 255 * 127).all()) else 63


@cache
def works(kind: type[Any], dtype: torch.dtype) -> bool:
    """Whether this torch, on this processor, has what a kind of linear layer calls: tried once, on one small layer."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*quantize_per_tensor")  # said once, and known
            ones = torch.ones(16, 16, dtype=torch.float32)
            kind(ones, ones[0], "silu", dtype)(ones)
    except (AttributeError, NotImplementedError, RuntimeError):
        return False
    return True
