"""Processes of a training: rank and world size, joining through torchrun, and small exchanges."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from oneclip.errors import ConfigError

TIMEOUT = timedelta(minutes=30)  # of one exchange; the watchdog detects shorter stalls


@dataclass(frozen=True)
class World:
    """The processes that train together, and the rank of this one. The default is a single process.

    Attributes:
        rank: of this process, in [0, size).
        size: number of processes.
        local_rank: of this process on its machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_rank_zero(self) -> bool:
        """True for the process that writes and prints."""
        return self.rank == 0

    @property
    def is_single(self) -> bool:
        """True if this is the only process."""
        return self.size == 1

    def sum(self, values: Sequence[float]) -> list[float]:
        """Add up each number over all ranks. Every rank must call this at the same point."""
        if self.is_single:
            return list(values)
        total = torch.tensor(list(values), dtype=torch.float64)
        dist.all_reduce(total)
        return [float(value) for value in total]

    def broadcast_object(self, value: Any) -> Any:
        """Return the value of rank 0 on every rank. Every rank must call this at the same point."""
        if self.is_single:
            return value
        values = [value]
        dist.broadcast_object_list(values, device=torch.device("cpu"))
        return values[0]

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks, in rank order. Every rank must call this at the same point.

        Args:
            value: can be pickled.
        """
        if self.is_single:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values


def is_torchrun(environment: Mapping[str, str] | None = None) -> bool:
    """Tell whether torchrun, or a launcher that sets the same variables, started this process as one of several."""
    return int((os.environ if environment is None else environment).get("WORLD_SIZE", "1")) > 1


def init_distributed(device: str | torch.device) -> tuple[World, torch.device]:
    """Join the other processes that torchrun started. Without torchrun, return a single-process world.

    Args:
        device: "cuda" or "cpu". Each rank of a machine uses a GPU of its own.

    Returns:
        The world, and the device of this process.

    Raises:
        ConfigError: if a machine has fewer GPUs than ranks, or this build of torch has no torch.distributed.
    """
    device = torch.device(device)
    if not is_torchrun():
        return World(), device
    if not dist.is_available():
        raise ConfigError(
            "this build of torch has no torch.distributed; train in one process, without torchrun"
        )
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if device.type == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise ConfigError(
                f"torchrun started more processes than this machine has GPUs ({torch.cuda.device_count()}, local rank "
                f"{local_rank}); set --nproc-per-node to the number of GPUs"
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        # both backends: metrics and checkpoints are exchanged from host memory while the GPUs work
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=TIMEOUT)
    return World(dist.get_rank(), dist.get_world_size(), local_rank), device


def end_distributed() -> None:
    """Leave the process group once all ranks have arrived here."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
