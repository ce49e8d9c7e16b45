"""Information about this machine: CPU, memory and GPUs."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16", "i8mm")


def cpu_info() -> dict[str, Any]:
    """Return the CPU's name, the number of logical processors, and the vector instructions that models use."""
    facts: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            facts.setdefault(key.strip().lower(), value.strip())
    except OSError:  # not Linux
        pass
    flags = set((facts.get("flags") or facts.get("features") or "").split())
    return {
        "name": facts.get("model name") or platform.processor() or platform.machine(),
        "processors": os.cpu_count(),
        "available_processors": available_processors(),
        "flags": [flag for flag in CPU_FLAGS if flag in flags],
    }


def available_processors() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def decoding_threads() -> int:
    """Return the number of threads that decode images: at most 8, since more would only wait for the model."""
    return min(8, available_processors())


def list_gpus() -> list[dict[str, Any]]:
    """Return the name, bytes of memory and compute capability of each GPU that torch can use."""
    import torch

    found = []
    for index in range(torch.cuda.device_count()) if torch.cuda.is_available() else ():
        facts = torch.cuda.get_device_properties(index)
        found.append(
            {"name": facts.name, "bytes": facts.total_memory, "capability": f"{facts.major}.{facts.minor}"}
        )
    return found


def total_memory() -> int | None:
    """Return the bytes of physical memory, or None if the system does not report them."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def resident_memory() -> int:
    """Return the bytes of physical memory that this process uses, or 0 if the system does not report them."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, IndexError, OSError, ValueError):  # not Linux
        return 0


def describe_hardware() -> str:
    """Describe this machine in one line: "AMD EPYC 9B14, 2 processors, 24 GiB; 1 x NVIDIA H100, 80 GiB"."""
    processor, total = cpu_info(), total_memory()
    words = f"{processor['name']}, {processor['available_processors']} processors"
    words += f", {total / 2**30:.0f} GiB" if total else ""
    found = list_gpus()
    if not found:
        return f"{words}; no GPU"
    return f"{words}; {len(found)} x {found[0]['name']}, {found[0]['bytes'] / 2**30:.0f} GiB"
