"""Tensors of one rank to the ranks beside it, with gradients that travel the other way.

Ranks stand in a ring: the one to the right of the last is the first.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

Group = Any  # a torch.distributed process group, or None for all ranks


def neighbour_exchange(from_rank: int, to_rank: int, tensor: Tensor, group: Group = None) -> Tensor:
    """Send a tensor to one rank, and receive one of the same shape from another."""
    received = torch.empty_like(tensor, memory_format=torch.contiguous_format)
    _transfer(
        dist.P2POp(dist.isend, tensor.contiguous(), to_rank, group=group),
        dist.P2POp(dist.irecv, received, from_rank, group=group),
    )
    return received


def neighbour_exchange_bidir(
    left_rank: int, right_rank: int, tensor_to_left: Tensor, tensor_to_right: Tensor, group: Group = None
) -> tuple[Tensor, Tensor]:
    """Send one tensor to the left and one to the right, and receive one from each.

    Returns:
        What came from the right, then what came from the left.
    """
    from_left = torch.empty_like(tensor_to_right, memory_format=torch.contiguous_format)
    from_right = torch.empty_like(tensor_to_left, memory_format=torch.contiguous_format)
    _transfer(
        dist.P2POp(dist.isend, tensor_to_right.contiguous(), right_rank, group=group),
        dist.P2POp(dist.isend, tensor_to_left.contiguous(), left_rank, group=group),
        # in the order in which they are sent where both neighbours are the same rank
        dist.P2POp(dist.irecv, from_left, left_rank, group=group),
        dist.P2POp(dist.irecv, from_right, right_rank, group=group),
    )
    return from_right, from_left


class NeighbourExchange(torch.autograd.Function):
    """`neighbour_exchange`, whose gradients go back to the rank that the tensor came from."""

    @staticmethod
    def forward(ctx: Any, from_rank: int, to_rank: int, group: Group, tensor: Tensor) -> Tensor:
        ctx.from_rank, ctx.to_rank, ctx.group = from_rank, to_rank, group
        return neighbour_exchange(from_rank, to_rank, tensor, group)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
        back = NeighbourExchange.apply(ctx.to_rank, ctx.from_rank, ctx.group, grad_output)  # type: ignore[no-untyped-call]
        return None, None, None, back


class NeighbourExchangeBidir(torch.autograd.Function):
    """`neighbour_exchange_bidir`, whose gradients go back to the ranks that the tensors came from."""

    @staticmethod
    def forward(
        ctx: Any,
        left_rank: int,
        right_rank: int,
        group: Group,
        tensor_to_left: Tensor,
        tensor_to_right: Tensor,
    ) -> tuple[Tensor, Tensor]:
        ctx.left_rank, ctx.right_rank, ctx.group = left_rank, right_rank, group
        return neighbour_exchange_bidir(left_rank, right_rank, tensor_to_left, tensor_to_right, group)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Any, ...]:
        # what came from the right goes back there: the ring is walked the other way round
        back = NeighbourExchangeBidir.apply(ctx.right_rank, ctx.left_rank, ctx.group, *grad_outputs)  # type: ignore[no-untyped-call]
        return (None, None, None, *back)


def neighbour_exchange_with_grad(from_rank: int, to_rank: int, tensor: Tensor, group: Group = None) -> Tensor:
    """`neighbour_exchange` within a computation that is differentiated; every rank has to take its gradient."""
    return NeighbourExchange.apply(from_rank, to_rank, group, tensor)  # type: ignore[no-any-return, no-untyped-call]


def neighbour_exchange_bidir_with_grad(
    left_rank: int, right_rank: int, tensor_to_left: Tensor, tensor_to_right: Tensor, group: Group = None
) -> tuple[Tensor, Tensor]:
    """`neighbour_exchange_bidir` within a computation that is differentiated; likewise."""
    return NeighbourExchangeBidir.apply(left_rank, right_rank, group, tensor_to_left, tensor_to_right)  # type: ignore[no-any-return, no-untyped-call]


def _transfer(*operations: dist.P2POp) -> None:
    for request in dist.batch_isend_irecv(list(operations)):
        request.wait()
