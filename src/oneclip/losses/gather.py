"""The features of one rank to those of every rank, with gradients that flow back where they are asked to."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx

from oneclip.errors import ConfigError


def gather_rows(features: Tensor, *, rank: int, world_size: int, with_grad: bool, keep_local: bool) -> Tensor:
    """Concatenate the rows of all ranks, in the order of the ranks.

    Args:
        features: (B, D) of this rank; B is the same on every rank.
        with_grad: gradients flow to the ranks that the rows came from, summed over ranks.
        keep_local: without `with_grad`, this rank's own rows go in as they are and keep their gradient.

    Returns:
        (world_size * B, D)

    Raises:
        ConfigError: if torch.distributed is not initialised, or has another number of ranks.
    """
    require_process_group(world_size)
    if with_grad:
        return _GatherRows.apply(features)  # type: ignore[no-any-return, no-untyped-call]
    parts = all_gather(features)
    if keep_local:
        parts[rank] = features
    return torch.cat(parts)


def reduce_rows(features: Tensor, *, world_size: int) -> Tensor:
    """Like `gather_rows` with gradients, each rank's rows sent to all by a sum in which the others are zero.

    For backends whose all-reduce is faster, or the only collective there is.

    Args:
        features: (B, D) of this rank; B is the same on every rank.

    Returns:
        (world_size * B, D)

    Raises:
        ConfigError: if torch.distributed is not initialised, or has another number of ranks.
    """
    require_process_group(world_size)
    return _ReduceRows.apply(features)  # type: ignore[no-any-return, no-untyped-call]


class _GatherRows(torch.autograd.Function):
    """All-gather whose backward pass sums, over the ranks, the gradients of each rank's own rows."""

    @staticmethod
    def forward(ctx: FunctionCtx, features: Tensor) -> Tensor:
        return torch.cat(all_gather(features))

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> Tensor:
        total = grad.contiguous().clone()
        # (world_size * B, D); all_reduce exists on every backend, reduce_scatter does not
        dist.all_reduce(total)
        rows = total.shape[0] // dist.get_world_size()
        return total[dist.get_rank() * rows :][:rows]


class _ReduceRows(_GatherRows):
    """`_GatherRows` whose forward pass, too, knows no other collective than all-reduce."""

    @staticmethod
    def forward(ctx: FunctionCtx, features: Tensor) -> Tensor:
        rows = features.detach()
        parts = [
            (rows if rank == dist.get_rank() else torch.zeros_like(rows)).clone().contiguous()
            for rank in range(dist.get_world_size())
        ]
        for part in parts:
            dist.all_reduce(part)
        return torch.cat(parts)


def all_gather(features: Tensor) -> list[Tensor]:
    """A tensor of the same shape on every rank to those of all, in the order of the ranks, without gradients."""
    parts = [
        torch.empty_like(features, memory_format=torch.contiguous_format)
        for _ in range(dist.get_world_size())
    ]
    dist.all_gather(parts, features.detach().contiguous())
    return parts


def require_process_group(world_size: int) -> None:
    """Raise ConfigError unless torch.distributed is initialised with that number of ranks."""
    if not (dist.is_available() and dist.is_initialized()):
        raise ConfigError(
            f"world_size={world_size} needs torch.distributed, which is not initialised; "
            "call torch.distributed.init_process_group first, or leave world_size at 1"
        )
    if dist.get_world_size() != world_size:
        raise ConfigError(
            f"world_size={world_size}, but the group has {dist.get_world_size()} ranks; make them agree"
        )
