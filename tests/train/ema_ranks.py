"""Moving average of a sharded module. Run by test_ema.py under two ranks: `ema_ranks.py FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from oneclip.checkpoint.readers.dcp import DistributedCheckpoint
from oneclip.train.checkpointing.dcp import AsyncCheckpointWriter, load_sharded
from oneclip.train.distributed.world import World
from oneclip.train.ema import Ema
from tests.ranks import join, leave


def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))


def moved(module: nn.Module, ema: Ema) -> None:
    """Three steps, the same on any number of ranks."""
    for step in range(3):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(1.5 + step)
        ema.update()


def whole(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        name: tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
        for name, tensor in tensors.items()
    }


def written_and_read(path: Path, sharded: nn.Module, ema: Ema, world: World) -> dict[str, torch.Tensor]:
    """What another average holds after a checkpoint of this one was read into it."""
    writer = AsyncCheckpointWriter(world, keep=0)
    weights = sharded.state_dict()
    writer.write(path, {"state_dict": weights, "ema": ema.state_dict()}, {"step": 3})
    writer.finish()
    again = Ema(sharded, 0.9)
    load_sharded(DistributedCheckpoint(path), {"state_dict": weights, "ema": again.state_dict()})
    return whole(again.state_dict())


if __name__ == "__main__":
    out = Path(sys.argv[1])
    rank, world = join()
    sharded = fully_shard(module(), mesh=init_device_mesh("cpu", (world,)))
    ema = Ema(sharded, 0.9)
    moved(sharded, ema)
    x = torch.ones(2, 4)
    with ema.applied(), torch.no_grad():
        applied = sharded(x)
        sharded.reshard()
    with torch.no_grad():
        after = sharded(x)
        sharded.reshard()
    again = Ema(sharded, 0.9)
    again.load_state_dict(whole(ema.state_dict()))
    results = {
        "means": whole(ema.state_dict()),
        "again": whole(again.state_dict()),
        "applied": applied,
        "after": after,
        "read": written_and_read(out / "step_3", sharded, ema, World(rank, world)),
    }
    torch.save(results, out / f"{rank}.pt")
    leave()
