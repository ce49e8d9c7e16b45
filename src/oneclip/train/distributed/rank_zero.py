"""What the first of several processes does for all, and what only all of them have: errors, weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from oneclip.errors import ClusterError, OneCLIPError
from oneclip.train.distributed.world import World

Made = TypeVar("Made")


def by_first(world: World, do: Callable[[], Made]) -> Made:
    """Do something on the first rank alone, and have what came of it on every rank.

    Args:
        world: every rank of it has to call this.
        do: what comes of it can be pickled.

    Raises:
        OneCLIPError: on the first rank, as `do` does.
        ClusterError: on the others, if `do` raised on the first: none of them waits for what will not come.
    """
    made: Made | None = None
    problem: OneCLIPError | None = None
    if world.is_first:
        try:
            made = do()
        except OneCLIPError as error:
            problem = error
    made, text = world.first_says((made, str(problem) if problem is not None else None))
    if problem is not None:
        raise problem
    if text is not None:
        raise ClusterError(f"process {world.rank} ends because the first one did: {text}")
    return cast(Made, made)


def from_first(world: World, tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the first rank on every rank, each of which has to call this.

    Args:
        world: the processes.
        tensors: on the CPU; those of other ranks than the first are not looked at.
        like: tensors of the same names, shapes and types, which every rank has.
    """
    if world.is_alone:
        return dict(tensors)
    found = {}
    for name, tensor in like.items():
        found[name] = tensors[name].contiguous() if world.is_first else torch.empty_like(tensor)
        dist.broadcast(found[name], src=0)
    return found


def whole_weights(model: nn.Module, world: World) -> dict[str, Tensor]:
    """The weights of a model on the CPU, put together from all ranks, each of which has to call this.

    Returns:
        them on the first rank; on others perhaps nothing.
    """
    if world.is_alone:
        return model.state_dict()
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return cast(dict[str, Tensor], get_model_state_dict(model, options=whole))
