"""A training whose last rank stalls. Run by test_watchdog.py: `stalling.py CAUSE FOLDER`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from oneclip.train.distributed.watchdog import Watchdog

STEPS, AT = 6, 3


def train(cause: str, out: Path, watchdog: Watchdog, rank: int) -> None:
    for step in range(STEPS):
        stalls = step == AT and rank == dist_size() - 1
        with watchdog.phase("waiting for data", step):
            if stalls and cause == "data":
                time.sleep(60)
            if stalls and cause == "frozen":
                freeze(out / "stalled-rank-0.txt")
        with watchdog.phase("backward", step):
            exchange()
        watchdog.step_done(step + 1)
        if stalls and cause == "evaluates":
            with watchdog.phase("evaluation", step + 1):
                time.sleep(2.5)


def freeze(until: Path) -> None:
    """Stop this process with all its threads until a file exists."""
    thaw = f"while [ ! -e '{until}' ]; do sleep 0.1; done; kill -CONT {os.getpid()}"
    subprocess.Popen(["sh", "-c", thaw])
    os.kill(os.getpid(), signal.SIGSTOP)


def exchange() -> None:
    if dist.is_initialized():
        dist.all_reduce(torch.ones(1))
    else:
        time.sleep(0.01)


def dist_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


if __name__ == "__main__":
    cause, out = sys.argv[1], Path(sys.argv[2])
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1:
        dist.init_process_group("gloo")
    with Watchdog(out, rank, world, 1.0) as watchdog:
        train(cause, out, watchdog, rank)
    sys.stdout.flush()
    os._exit(0)
