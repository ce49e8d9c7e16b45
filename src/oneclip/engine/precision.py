"""Kernels for each precision on this machine, and the reason for each choice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from oneclip.config.precision import PLAN_PRECISIONS, check_precision, precision_name, torch_dtype
from oneclip.engine.kernels import Int8Linear, Pack, PackedLinear, PlainLinear, is_supported

DEVICE_NAMES = {"cpu": " on a CPU", "cuda": " on a GPU"}


@dataclass(frozen=True)
class Kernels:
    """Linear layers of a plan.

    Attributes:
        pack: makes those of the blocks.
        pack_patches: makes the one that reads pixels, whose range needs more than 8 bits.
        dtype: that towers without a plan class are computed in.
        description: of these kernels, for people.
    """

    pack: Pack
    pack_patches: Pack
    dtype: torch.dtype
    description: str


def check_plan_precision(precision: str, device_type: str) -> None:
    """Raise ConfigError unless plans on a device have a precision; devices without plans accept every precision."""
    if device_type in PLAN_PRECISIONS:
        check_precision(precision, PLAN_PRECISIONS[device_type], DEVICE_NAMES[device_type])
    else:
        check_precision(precision)


def kernels_for(precision: str, device_type: str = "cpu") -> Kernels:
    """Choose the fastest linear layers for a precision on this processor, or on a GPU.

    On a GPU they are torch's own: cuBLAS reads weights in any order, and adds the bias in the same pass.

    Raises:
        ConfigError: if there is no plan in that precision.
    """
    check_plan_precision(precision, device_type)
    if device_type == "cuda":
        dtype = torch_dtype(precision)
        plain: Pack = partial(PlainLinear, dtype=dtype)
        description = f"torch's own in {precision}, fused attention, small batches as CUDA graphs"
        return Kernels(plain, plain, dtype, description)
    if precision == "int8":
        dtype = torch.bfloat16 if cpu_supports_bf16() else torch.float32
        if is_supported(Int8Linear, dtype):
            int8, patches = partial(Int8Linear, dtype=dtype), _float_kernels(dtype).pack
            return Kernels(
                int8, patches, dtype, f"linear layers in int8 (oneDNN), the rest in {precision_name(dtype)}"
            )
        kernels = _float_kernels(torch.float32)
        return Kernels(
            kernels.pack, kernels.pack, kernels.dtype, f"{kernels.description}; this torch has no int8 here"
        )
    return _float_kernels(torch_dtype(precision))


def _float_kernels(dtype: torch.dtype) -> Kernels:
    name = precision_name(dtype)
    if is_supported(PackedLinear, dtype):
        pack, description = partial(PackedLinear, dtype=dtype), f"oneDNN in {name}, weights packed"
        return Kernels(pack, pack, dtype, description)
    plain = partial(PlainLinear, dtype=dtype)
    return Kernels(plain, plain, dtype, f"torch's own in {name}: oneDNN's operators are not available")


def cpu_supports_bf16() -> bool:
    """Return whether the processor has bf16 products (AVX512_BF16, AMX, or Arm's BF16) that are faster than fp32."""
    checks: list[Callable[[], Any] | None] = [
        getattr(torch.cpu, "_is_avx512_bf16_supported", None),
        getattr(torch.cpu, "_is_amx_tile_supported", None),
    ]
    if any(check is not None and check() for check in checks):
        return True
    try:
        return "bf16" in _arm_flags()
    except OSError:
        return False


def _arm_flags() -> list[str]:
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        return next((line.split(":")[1].split() for line in lines if line.startswith("Features")), [])


def gpu_supports_bf16(device: torch.device) -> bool:
    """Return whether a GPU has bf16 products: NVIDIA's since Ampere, and all of AMD's that torch is built for."""
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def automatic_precision(device: torch.device) -> str:
    """Resolve `precision="auto"` for a device: 16 bits if it supports them, else fp32."""
    if device.type == "cuda":
        return "bf16" if gpu_supports_bf16(device) else "fp16"
    return "bf16" if device.type == "cpu" and cpu_supports_bf16() else "fp32"


def descriptions() -> dict[str, str]:
    """Describe what computes each precision on the default device, and why, for `oneclip doctor`."""
    if torch.cuda.is_available():
        device = torch.device("cuda")
        return {**gpu_descriptions(gpu_supports_bf16(device)), "auto": automatic_precision(device)}
    found = {precision: kernels_for(precision).description for precision in PLAN_PRECISIONS["cpu"]}
    found["fp16"] = "the plain module: fp16 is not faster on a CPU"
    if not cpu_supports_bf16():
        found["bf16"] += "; this processor has no bf16 products"
    found["auto"] = automatic_precision(torch.device("cpu"))
    return found


def gpu_descriptions(has_bf16: bool) -> dict[str, str]:
    """Describe what computes each precision on a GPU with or without bf16 products."""
    found = {precision: kernels_for(precision, "cuda").description for precision in PLAN_PRECISIONS["cuda"]}
    found["fp32"] += "; TF32 if the program allows it"
    if not has_bf16:
        found["bf16"] += "; this GPU has no bf16 products, use fp16"
    found["int8"] = "not on a GPU, where it is not faster than bf16; use device='cpu'"
    return found
