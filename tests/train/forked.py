"""Several ranks out of one process that has imported torch already, each a fork of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.process import BaseProcess

import torch.distributed as dist

from oneclip.train import World, join
from tests.ranks import leave

Work = Callable[[World], None]
HEAVY = ("torch._dynamo", "torch.distributed.fsdp", "torch.distributed.checkpoint")


def start(world: int, work: Work) -> tuple[list[BaseProcess], dist.TCPStore]:
    """Begin to work on each rank. The store has to stay until they are done; no threads may run here."""
    for module in HEAVY:  # which all ranks would import otherwise
        import_module(module)
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    fork = get_context("fork")
    processes: list[BaseProcess] = [
        fork.Process(target=_be, args=(rank, world, store.port, work), daemon=True) for rank in range(world)
    ]
    for process in processes:
        process.start()
    return processes, store


def run(world: int, work: Work, timeout: float = 120) -> None:
    """Work on each rank until all are done, without an error."""
    processes, _store = start(world, work)
    for process in processes:
        process.join(timeout)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    if codes != [0] * world:
        raise SystemExit(f"ranks ended with {codes}")


def _be(rank: int, world: int, port: int, work: Work) -> None:
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
    work(join("cpu")[0])
    leave()
