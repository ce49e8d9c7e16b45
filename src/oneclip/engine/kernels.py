"""Linear layers with weights packed for one precision on this processor.

Shapes: (..., K) inputs, (..., N) outputs.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

Linear = Callable[[Tensor], Tensor]

# activations after a linear layer: as a function, and as oneDNN's post-operation (name, arguments, algorithm)
Activation = tuple[Callable[[Tensor], Tensor], tuple[str, list[float], str]]
ACTIVATIONS: dict[str, Activation] = {
    "none": (lambda x: x, ("none", [], "")),
    "gelu": (F.gelu, ("gelu", [], "none")),
    "gelu_tanh": (lambda x: F.gelu(x, approximate="tanh"), ("gelu", [], "tanh")),
    "silu": (F.silu, ("swish", [], "")),
}


class Pack(Protocol):
    """Maker of linear layers: from (N, K) weights and an (N,) bias, `activation(x @ weight.T + bias)`."""

    def __call__(self, weight: Tensor, bias: Tensor | None, activation: str = "none") -> Linear: ...


class PlainLinear:
    """Linear layer by torch's own function, for machines without oneDNN's operators."""

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
    """Linear layer by oneDNN in fp32 or bf16: weights in its kernels' order, bias and activation in the same pass.

    `torch.nn.functional.linear` reorders bf16 weights at each call, and calls MKL in fp32, which uses no AVX-512 on
    processors of other makers than Intel. The operators are those that torch's own compiler emits.
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
    """Linear layer by oneDNN in int8: one scale for each output channel, and one for all inputs of a call.

    Weights are symmetric, -127 to 127, or -63 to 63, see `max_int8_weight`. Inputs are 0 to 255, with a zero point
    between the least and the greatest input. Sums are exact in 32 bits. The output is in `dtype`; after an activation
    it is in fp32, because the next linear layer quantizes it again.
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
        self.scale = greatest / max_int8_weight()
        rounded = (weight / self.scale[:, None]).round().to(torch.int8)
        self.weight = torch.ops.onednn.qlinear_prepack(rounded.contiguous(), None)
        self.zero = torch.zeros(len(weight), dtype=torch.int32)
        self.bias = None if bias is None else bias.float()
        self.dtype = dtype if activation == "none" else torch.float32
        self.post = ACTIVATIONS[activation][1]

    def __call__(self, x: Tensor) -> Tensor:
        levels, scale, zero = quantize(x.float())
        y: Tensor = torch.ops.onednn.qlinear_pointwise(
            levels, scale, zero, self.weight, self.scale, self.zero, self.bias, 1.0, 0, self.dtype, *self.post
        )
        return y


def quantize(x: Tensor) -> tuple[Tensor, float, int]:
    """Quantize floats to (uint8, scale, zero point): x is about scale * (uint8 - zero point), and 0 stays exactly 0."""
    low, high = (float(bound) for bound in torch.aminmax(x))
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255
    if not 0 < scale < float("inf"):  # all zero, or not finite: the output must stay so
        return torch.zeros_like(x, dtype=torch.uint8), high - low, 0
    zero = round(-low / scale)
    if not hasattr(torch, "quantize_per_tensor"):  # torch is going to remove it; it takes a third of the time
        shifted = torch.add(torch.tensor(zero + 0.5, dtype=torch.float32), x, alpha=1 / scale)
        return shifted.clamp_(0, 255).to(torch.uint8), scale, zero
    levels = torch.quantize_per_tensor(x, scale, zero, torch.quint8)
    # a view of its bytes, because `int_repr` would copy them
    bytes_ = torch.empty(0, dtype=torch.uint8)
    return bytes_.set_(levels.untyped_storage(), 0, levels.shape, levels.stride()), scale, zero


@cache
def max_int8_weight() -> int:
    """Return the greatest int8 weight whose products are summed exactly on this processor: 127 or 63.

    x86 processors without VNNI add pairs of products in 16 bits (`vpmaddubsw`), which saturate: 2 * 255 * 127 does not
    fit, 2 * 255 * 63 does. It is found by a test product, because torch reports only one of the two forms of VNNI.
    """
    weight = torch.full((64, 64), 127, dtype=torch.int8)
    zero = torch.zeros(64, dtype=torch.int32)
    packed = torch.ops.onednn.qlinear_prepack(weight, None)
    levels, scale = torch.full((64, 64), 255, dtype=torch.uint8), torch.ones(64)
    arguments: tuple[Any, ...] = (packed, scale, zero, None, 1.0, 0, torch.float32, "none", [], "")
    product = torch.ops.onednn.qlinear_pointwise(levels, 1.0, 0, *arguments)
    return 127 if bool((product == 64 * 255 * 127).all()) else 63


@cache
def is_supported(kind: type[Any], dtype: torch.dtype) -> bool:
    """Return whether this torch on this processor can run a kind of linear layer; it is tried once on a small one."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*quantize_per_tensor")  # deprecated, see `quantize`
            ones = torch.ones(16, 16, dtype=torch.float32)
            kind(ones, ones[0], "silu", dtype)(ones)
    except (AttributeError, NotImplementedError, RuntimeError):
        return False
    return True


def int8_products(codes: Tensor, queries: Tensor) -> Tensor:
    """Multiply int8 rows by a few queries, without packing or copying the rows, which may be mapped from a file.

    Args:
        codes: (N, K) int8, contiguous; K is a multiple of 64.
        queries: (Q, K) float32; they are rounded to bf16.

    Returns:
        (Q, N) products, in bf16 or float32.
    """
    if has_int8_products():
        return torch._weight_int8pack_mm(queries.bfloat16(), codes, _ones(len(codes)))
    rounded = queries.bfloat16().float()
    return torch.cat([F.linear(rounded, part.float()) for part in torch.split(codes, 4096)], dim=1)


@cache
def has_int8_products() -> bool:
    """Return whether this torch can multiply bf16 queries by int8 rows as they lie; it is tried once on a few."""
    codes, query = torch.full((32, 64), -2, dtype=torch.int8), torch.ones(1, 64, dtype=torch.bfloat16)
    try:
        return bool((torch._weight_int8pack_mm(query, codes, _ones(32)) == -128).all())
    except (AttributeError, NotImplementedError, RuntimeError):
        return False


@lru_cache(maxsize=4)
def _ones(count: int) -> Tensor:
    return torch.ones(count, dtype=torch.bfloat16)
