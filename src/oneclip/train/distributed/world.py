"""The environment that torchrun makes to a place among the processes of a training."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from oneclip.errors import ConfigError

TIMEOUT = timedelta(minutes=30)  # of one exchange; what stalls for less long is the watchdog's affair


@dataclass(frozen=True)
class World:
    """This process among those of a training, rank by rank; alone by default.

    Attributes:
        rank: of this process, in [0, size).
        size: number of processes.
        local_rank: of this process on its machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes and prints."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether there are no others."""
        return self.size == 1

    def sum(self, values: Sequence[float]) -> list[float]:
        """Each number added up over all ranks; every rank has to ask at the same time."""
        if self.is_alone:
            return list(values)
        total = torch.tensor(list(values), dtype=torch.float64)
        dist.all_reduce(total)
        return [float(value) for value in total]

    def first_says(self, value: Any) -> Any:
        """What rank 0 has, on every rank; every rank has to ask at the same time."""
        if self.is_alone:
            return value
        values = [value]
        dist.broadcast_object_list(values, device=torch.device("cpu"))
        return values[0]

    def gather(self, value: Any) -> list[Any]:
        """What each rank has, in the order of the ranks, on every rank; each has to ask at the same time.

        Args:
            value: can be pickled.
        """
        if self.is_alone:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values


def is_launched(environment: Mapping[str, str] | None = None) -> bool:
    """Whether torchrun, or what sets the same variables, started this process as one of several."""
    return int((os.environ if environment is None else environment).get("WORLD_SIZE", "1")) > 1


def join(device: str | torch.device) -> tuple[World, torch.device]:
    """Meet the other processes that torchrun started; alone, if it started none.

    Args:
        device: "cuda" or "cpu": what the training runs on. Ranks of a machine take its cards in turn.

    Returns:
        The world, and the device of this process.

    Raises:
        ConfigError: if a machine has fewer cards than ranks, or this build of torch cannot exchange tensors.
    """
    device = torch.device(device)
    if not is_launched():
        return World(), device
    if not dist.is_available():
        raise ConfigError(
            "this build of torch has no torch.distributed; train in one process, without torchrun"
        )
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if device.type == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise ConfigError(
                f"torchrun started a process number {local_rank + 1} on a machine with {torch.cuda.device_count()} "
                "cards; give --nproc-per-node as many as there are"
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        # both: numbers of the loop and checkpoints travel from host memory, while cards go on
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=TIMEOUT)
    return World(dist.get_rank(), dist.get_world_size(), local_rank), device


def leave() -> None:
    """Part from the other processes, when all are done."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
