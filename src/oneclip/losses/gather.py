"""Gathering of features across ranks, with optional gradients."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx

from oneclip.errors import ConfigError


def gather_rows(features: Tensor, *, rank: int, world_size: int, with_grad: bool, keep_local: bool) -> Tensor:
    """Concatenate the rows of all ranks, in rank order.

    Args:
        features: (B, D) of this rank; B is the same on every rank.
        with_grad: send gradients back to the ranks that the rows came from, summed over ranks.
        keep_local: without `with_grad`, keep the gradient of this rank's own rows.

    Returns:
        (world_size * B, D)

    Raises:
        ConfigError: if torch.distributed is not initialized, or has a different number of ranks.
    """
    require_process_group(world_size)
    if with_grad:
        return _GatherRows.apply(features)  # type: ignore[no-any-return, no-untyped-call]
    parts = all_gather(features)
    if keep_local:
        parts[rank] = features
    return torch.cat(parts)


def reduce_rows(features: Tensor, *, world_size: int) -> Tensor:
    """Gather rows with gradients by one all-reduce per rank: a sum in which the other ranks contribute zeros.

    For backends that have no other collective than all-reduce, or where it is faster.

    Args:
        features: (B, D) of this rank; B is the same on every rank.

    Returns:
        (world_size * B, D)

    Raises:
        ConfigError: if torch.distributed is not initialized, or has a different number of ranks.
    """
    require_process_group(world_size)
    return _ReduceRows.apply(features)  # type: ignore[no-any-return, no-untyped-call]


class _GatherRows(torch.autograd.Function):
    """All-gather whose backward pass sums the gradients of each rank's rows over all ranks."""

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
    """`_GatherRows` that uses all-reduce in the forward pass as well."""

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
    """Collect a tensor, of the same shape on every rank, from all ranks in rank order, without gradients."""
    parts = [
        torch.empty_like(features, memory_format=torch.contiguous_format)
        for _ in range(dist.get_world_size())
    ]
    dist.all_gather(parts, features.detach().contiguous())
    return parts


def check_rank(rank: int, world_size: int) -> None:
    """Raise ConfigError unless `rank` is one of the ranks of a world of `world_size`."""
    if not 0 <= rank < world_size:
        raise ConfigError(f"rank {rank} is not in a world of {world_size}; expected 0 <= rank < world_size")


def require_process_group(world_size: int) -> None:
    """Raise ConfigError unless torch.distributed is initialized with `world_size` ranks."""
    if not (dist.is_available() and dist.is_initialized()):
        raise ConfigError(
            f"world_size={world_size} needs torch.distributed, which is not initialized; "
            "call torch.distributed.init_process_group first, or leave world_size at 1"
        )
    if dist.get_world_size() != world_size:
        raise ConfigError(
            f"world_size={world_size}, but the process group has {dist.get_world_size()} ranks; make them equal"
        )
