"""Work that only rank 0 does, and values that all ranks get from it: results, errors, tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from oneclip.errors import ClusterError, OneCLIPError
from oneclip.train.distributed.world import World

Result = TypeVar("Result")


def run_on_rank_zero(world: World, do: Callable[[], Result]) -> Result:
    """Call a function on rank 0 only, and return its result on every rank.

    Args:
        world: every rank of it must call this.
        do: its result can be pickled.

    Raises:
        OneCLIPError: on rank 0, if `do` raises it.
        ClusterError: on the other ranks, if `do` raises on rank 0, so that none of them waits forever.
    """
    result: Result | None = None
    problem: OneCLIPError | None = None
    if world.is_rank_zero:
        try:
            result = do()
        except OneCLIPError as error:
            problem = error
    result, reason = world.broadcast_object((result, str(problem) if problem is not None else None))
    if problem is not None:
        raise problem
    if reason is not None:
        raise ClusterError(f"process {world.rank} stops because process 0 failed: {reason}")
    return cast(Result, result)


def broadcast_tensors(
    world: World, tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the tensors of rank 0 on every rank. Every rank must call this.

    Args:
        world: the processes.
        tensors: on the CPU; only those of rank 0 are used.
        like: tensors of the same names, shapes and dtypes, on every rank.
    """
    if world.is_single:
        return dict(tensors)
    received = {}
    for name, tensor in like.items():
        received[name] = tensors[name].contiguous() if world.is_rank_zero else torch.empty_like(tensor)
        dist.broadcast(received[name], src=0)
    return received


def full_state_dict(model: nn.Module, world: World) -> dict[str, Tensor]:
    """Gather the weights of a model from all ranks, on the CPU. Every rank must call this.

    Returns:
        The weights on rank 0. The result of other ranks may be empty.
    """
    if world.is_single:
        return model.state_dict()
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return cast(dict[str, Tensor], get_model_state_dict(model, options=options))
