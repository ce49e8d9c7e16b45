"""What this machine computes soonest: the kernels behind each precision, and why they were chosen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from oneclip.engine.kernels import Int8Linear, Pack, PackedLinear, PlainLinear, works
from oneclip.errors import ConfigError

# those that have a plan, by the kind of device; fp16 on a CPU is the plain module
PLANNED = {"cpu": ("fp32", "bf16", "int8"), "cuda": ("fp32", "bf16", "fp16")}
NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
DTYPES = {name: dtype for dtype, name in NAMES.items()}


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


def check_precision(precision: str, device_type: str = "any") -> None:
    """Raise ConfigError unless a plan comes in that precision on such a device, or on any where none is named."""
    known = PLANNED.get(device_type, ("fp32", "bf16", "fp16", "int8"))
    if precision not in known:
        where = {"cpu": "on a CPU ", "cuda": "on a GPU "}.get(device_type, "")
        raise ConfigError(f"precision is {precision!r}; a plan {where}is one of {', '.join(known)}")


def kernels_for(precision: str, device_type: str = "cpu") -> Kernels:
    """The fastest linear layers for a precision on this processor, or on a GPU.

    On a GPU they are torch's own: cuBLAS reads weights in any order, and adds the bias in the same pass.

    Raises:
        ConfigError: if a plan does not come in that precision.
    """
    check_precision(precision, device_type)
    if device_type == "cuda":
        dtype = DTYPES[precision]
        plain: Pack = partial(PlainLinear, dtype=dtype)
        words = f"torch's own in {precision}, fused attention, small batches as CUDA graphs"
        return Kernels(plain, plain, dtype, words)
    if precision == "int8":
        dtype = torch.bfloat16 if computes_bf16() else torch.float32
        if works(Int8Linear, dtype):
            return Kernels(
                partial(Int8Linear, dtype=dtype),
                _floats(dtype)[0],
                dtype,
                f"oneDNN in int8, {name_of(dtype)} between",
            )
        pack, words = _floats(torch.float32)
        return Kernels(pack, pack, torch.float32, f"{words}, for this torch has no int8 here")
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    pack, words = _floats(dtype)
    return Kernels(pack, pack, dtype, words)


def _floats(dtype: torch.dtype) -> tuple[Pack, str]:
    if works(PackedLinear, dtype):
        return partial(PackedLinear, dtype=dtype), f"oneDNN in {name_of(dtype)}, weights packed"
    return partial(
        PlainLinear, dtype=dtype
    ), f"torch's own in {name_of(dtype)}: oneDNN's operators are not there"


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


def gpu_computes_bf16(device: torch.device) -> bool:
    """Whether a GPU multiplies bf16 by itself: of NVIDIA's since Ampere, of AMD's all that torch is built for."""
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def automatic_precision(device: torch.device) -> str:
    """What `precision="auto"` means on a device: half as many bits where it computes in them, else fp32."""
    if device.type == "cuda":
        return "bf16" if gpu_computes_bf16(device) else "fp16"
    return "bf16" if device.type == "cpu" and computes_bf16() else "fp32"


def name_of(dtype: torch.dtype) -> str:
    """What we call a precision."""
    return NAMES[dtype]


def descriptions() -> dict[str, str]:
    """What `oneclip doctor` says: each precision, what computes it on the device that would be taken, and why."""
    if torch.cuda.is_available():
        device = torch.device("cuda")
        return {**gpu_descriptions(gpu_computes_bf16(device)), "auto": automatic_precision(device)}
    found = {precision: kernels_for(precision).description for precision in PLANNED["cpu"]}
    found["fp16"] = "the plain module: fp16 is not faster on a CPU"
    if not computes_bf16():
        found["bf16"] += "; this processor multiplies no bf16 by itself"
    found["auto"] = automatic_precision(torch.device("cpu"))
    return found


def gpu_descriptions(has_bf16: bool) -> dict[str, str]:
    """What computes each precision on a GPU that multiplies bf16 by itself, or does not."""
    found = {precision: kernels_for(precision, "cuda").description for precision in PLANNED["cuda"]}
    found["fp32"] += "; TF32 where the program allows it"
    if not has_bf16:
        found["bf16"] += "; this GPU multiplies no bf16 by itself, take fp16"
    found["int8"] = "not on a GPU, where it is not faster than bf16; use device='cpu'"
    return found
