"""Start ranks as forks of one process that has already imported torch."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.process import BaseProcess

import torch.distributed as dist

from oneclip.train import World, init_distributed
from tests.ranks import leave

Work = Callable[[World], None]
HEAVY = ("torch._dynamo", "torch.distributed.fsdp", "torch.distributed.checkpoint")


def start(world: int, work: Work) -> tuple[list[BaseProcess], dist.TCPStore]:
    """Start the work on each rank. Keep the store until they are done. No threads may run in this process."""
    for module in HEAVY:  # otherwise every rank would import them
        import_module(module)
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    fork = get_context("fork")
    processes: list[BaseProcess] = [
        fork.Process(target=_run_rank, args=(rank, world, store.port, work), daemon=True)
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    return processes, store


def run(world: int, work: Work, timeout: float = 120) -> None:
    """Run the work on each rank until all are done. Exit if one of them fails."""
    processes, _store = start(world, work)
    for process in processes:
        process.join(timeout)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    if codes != [0] * world:
        raise SystemExit(f"ranks ended with {codes}")


def _run_rank(rank: int, world: int, port: int, work: Work) -> None:
    if world == 1:
        work(World())
        os._exit(0)
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "WORLD_SIZE": str(world),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    work(init_distributed("cpu")[0])
    leave()
