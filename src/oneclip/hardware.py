"""What this machine is: its processor and its GPUs, as facts and in a line of words."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16", "i8mm")


def cpu() -> dict[str, Any]:
    """Name, processors and the vector instructions that decide how fast a model runs."""
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
        "processors_for_us": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "flags": [flag for flag in CPU_FLAGS if flag in flags],
    }


def gpus() -> list[dict[str, Any]]:
    """Name, bytes of memory and compute capability of each GPU that torch can use."""
    import torch

    found = []
    for index in range(torch.cuda.device_count()) if torch.cuda.is_available() else ():
        facts = torch.cuda.get_device_properties(index)
        found.append(
            {"name": facts.name, "bytes": facts.total_memory, "capability": f"{facts.major}.{facts.minor}"}
        )
    return found


def memory() -> int | None:
    """Bytes of memory, or None where it is not told."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def resident() -> int:
    """Bytes of memory that this process takes; 0 where it is not told."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, IndexError, OSError, ValueError):  # not Linux
        return 0


def in_words() -> str:
    """ "AMD EPYC 9B14, 2 processors, 24 GiB; 1 x NVIDIA H100, 80 GiB"."""
    processor, total = cpu(), memory()
    words = f"{processor['name']}, {processor['processors_for_us']} processors"
    words += f", {total / 2**30:.0f} GiB" if total else ""
    found = gpus()
    if not found:
        return f"{words}; no GPU"
    return f"{words}; {len(found)} x {found[0]['name']}, {found[0]['bytes'] / 2**30:.0f} GiB"
