"""What this machine computes soonest: the kernels behind each precision, and why they were chosen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from oneclip.engine.kernels import Int8Linear, Pack, PackedLinear, PlainLinear, works
from oneclip.errors import ConfigError

CPU_PRECISIONS = ("fp32", "bf16", "int8")  # those that have a plan; fp16 on a CPU is the plain module


@dataclass(frozen=True)
class Kernels:
    """The linear layers of a plan.

    Attributes:
        pack: makes those of the blocks.
        pack_patches: makes the one that reads pixels, whose range 8 bits do not hold well.
        dtype: what towers without a plan of their own are computed in.
        description: what they are, in words.
    """

    pack: Pack
    pack_patches: Pack
    dtype: torch.dtype
    description: str


def kernels_for(precision: str) -> Kernels:
    """The fastest linear layers for a precision on this processor.

    Raises:
        ConfigError: if a plan does not come in that precision.
    """
    if precision not in CPU_PRECISIONS:
        raise ConfigError(
            f"precision is {precision!r}; a plan on a CPU is one of {', '.join(CPU_PRECISIONS)}"
        )
    if precision == "int8":
        dtype = torch.bfloat16 if computes_bf16() else torch.float32
        if works(Int8Linear, dtype):
            return Kernels(
                partial(Int8Linear, dtype=dtype),
                _floats(dtype)[0],
                dtype,
                f"oneDNN in int8, {_name(dtype)} between",
            )
        pack, words = _floats(torch.float32)
        return Kernels(pack, pack, torch.float32, f"{words}, for this torch has no int8 here")
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    pack, words = _floats(dtype)
    return Kernels(pack, pack, dtype, words)


def _floats(dtype: torch.dtype) -> tuple[Pack, str]:
    if works(PackedLinear, dtype):
        return partial(PackedLinear, dtype=dtype), f"oneDNN in {_name(dtype)}, weights packed"
    return partial(
        PlainLinear, dtype=dtype
    ), f"torch's own in {_name(dtype)}: oneDNN's operators are not there"


def computes_bf16() -> bool:
    """Whether the processor multiplies bf16 by itself (AVX512_BF16, AMX, or Arm's BF16), not by way of fp32."""
    asked: list[Callable[[], Any] | None] = [
        getattr(torch.cpu, "_is_avx512_bf16_supported", None),
        getattr(torch.cpu, "_is_amx_tile_supported", None),
    ]
    if any(ask is not None and ask() for ask in asked):
        return True
    try:
        return "bf16" in _arm_flags()
    except OSError:
        return False


def _arm_flags() -> list[str]:
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        return next((line.split(":")[1].split() for line in lines if line.startswith("Features")), [])


def automatic_precision(device: torch.device) -> str:
    """What `precision="auto"` means on a device: half as many bits where it computes in them, else fp32."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    return "bf16" if device.type == "cpu" and computes_bf16() else "fp32"


def _name(dtype: torch.dtype) -> str:
    return {torch.bfloat16: "bf16", torch.float32: "fp32"}[dtype]


def descriptions() -> dict[str, str]:
    """What `oneclip doctor` says: each precision, what computes it on the device that would be taken, and why."""
    if torch.cuda.is_available():
        device = torch.device("cuda")
        found = dict.fromkeys(("fp32", "bf16", "fp16"), "the plain module: there is no plan for a GPU")
    else:
        device = torch.device("cpu")
        found = {precision: kernels_for(precision).description for precision in CPU_PRECISIONS}
        found["fp16"] = "the plain module: processors compute in fp16 no sooner"
        if not computes_bf16():
            found["bf16"] += "; this processor multiplies no bf16 by itself"
    found["auto"] = automatic_precision(device)
    return found
