"""Processes of one torch.distributed group, started like torchrun does."""

from __future__ import annotations

import os
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch.distributed as dist

from tests import programs

ROOT = Path(__file__).resolve().parents[1]


def run_ranks(world: int, command: programs.Command, *, timeout: int = 300) -> None:
    """Run a Python command (a script or `-m module`, and its arguments) once for each rank; all must succeed.

    The ranks connect through a store in this process, as with torchrun, so no rank exits while another needs it.
    """
    codes = [process.exitcode for process in start_ranks(world, command, timeout=timeout)]
    assert codes == [0] * world


def start_ranks(world: int, command: programs.Command, *, timeout: int = 300) -> list[BaseProcess]:
    """Run a command once for each rank, and return the finished processes with any exit code."""
    if not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip("this build of torch has no gloo")
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    common = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # only this process serves the store
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    processes = [
        programs.start(command, os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(world)
    ]
    try:
        for process in processes:
            process.join(timeout)
        assert None not in [process.exitcode for process in processes], f"ranks still run after {timeout} s"
    finally:
        for process in processes:
            process.kill()
    return processes


def join() -> tuple[int, int]:
    """Join the group, in a script of `run_ranks`; return the rank and the number of ranks."""
    dist.init_process_group("gloo")
    return dist.get_rank(), dist.get_world_size()


def leave() -> None:
    """Exit a rank whose results are on disk, without torch's shutdown, in which gloo's threads sometimes abort."""
    dist.barrier()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
