"""Exchange of tensors between neighbouring ranks, with gradients.

Ranks form a ring: the right neighbour of the last rank is the first.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

ProcessGroup = Any  # a torch.distributed process group, or None for all ranks


def neighbour_exchange(from_rank: int, to_rank: int, tensor: Tensor, group: ProcessGroup = None) -> Tensor:
    """Send a tensor to one rank, and receive one of the same shape from another."""
    received = torch.empty_like(tensor, memory_format=torch.contiguous_format)
    _transfer(
        dist.P2POp(dist.isend, tensor.contiguous(), to_rank, group=group),
        dist.P2POp(dist.irecv, received, from_rank, group=group),
    )
    return received


def neighbour_exchange_bidir(
    left_rank: int,
    right_rank: int,
    tensor_to_left: Tensor,
    tensor_to_right: Tensor,
    group: ProcessGroup = None,
) -> tuple[Tensor, Tensor]:
    """Send one tensor to the left and one to the right, and receive one from each.

    Returns:
        The tensor from the right, then the tensor from the left.
    """
    from_left = torch.empty_like(tensor_to_right, memory_format=torch.contiguous_format)
    from_right = torch.empty_like(tensor_to_left, memory_format=torch.contiguous_format)
    _transfer(
        dist.P2POp(dist.isend, tensor_to_right.contiguous(), right_rank, group=group),
        dist.P2POp(dist.isend, tensor_to_left.contiguous(), left_rank, group=group),
        # the order matters when both neighbours are the same rank: it must match the order of the sends
        dist.P2POp(dist.irecv, from_left, left_rank, group=group),
        dist.P2POp(dist.irecv, from_right, right_rank, group=group),
    )
    return from_right, from_left


class NeighbourExchange(torch.autograd.Function):
    """`neighbour_exchange` that sends gradients back to the rank that the tensor came from."""

    @staticmethod
    def forward(ctx: Any, from_rank: int, to_rank: int, group: ProcessGroup, tensor: Tensor) -> Tensor:
        ctx.from_rank, ctx.to_rank, ctx.group = from_rank, to_rank, group
        return neighbour_exchange(from_rank, to_rank, tensor, group)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
        back = NeighbourExchange.apply(ctx.to_rank, ctx.from_rank, ctx.group, grad_output)  # type: ignore[no-untyped-call]
        return None, None, None, back


class NeighbourExchangeBidir(torch.autograd.Function):
    """`neighbour_exchange_bidir` that sends gradients back to the ranks that the tensors came from."""

    @staticmethod
    def forward(
        ctx: Any,
        left_rank: int,
        right_rank: int,
        group: ProcessGroup,
        tensor_to_left: Tensor,
        tensor_to_right: Tensor,
    ) -> tuple[Tensor, Tensor]:
        ctx.left_rank, ctx.right_rank, ctx.group = left_rank, right_rank, group
        return neighbour_exchange_bidir(left_rank, right_rank, tensor_to_left, tensor_to_right, group)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Any, ...]:
        # left and right are swapped: the gradient of what came from the right goes to the right
        back = NeighbourExchangeBidir.apply(ctx.right_rank, ctx.left_rank, ctx.group, *grad_outputs)  # type: ignore[no-untyped-call]
        return (None, None, None, *back)


def neighbour_exchange_with_grad(
    from_rank: int, to_rank: int, tensor: Tensor, group: ProcessGroup = None
) -> Tensor:
    """Exchange a tensor as `neighbour_exchange` does, with gradients; every rank must run its backward pass."""
    return NeighbourExchange.apply(from_rank, to_rank, group, tensor)  # type: ignore[no-any-return, no-untyped-call]


def neighbour_exchange_bidir_with_grad(
    left_rank: int,
    right_rank: int,
    tensor_to_left: Tensor,
    tensor_to_right: Tensor,
    group: ProcessGroup = None,
) -> tuple[Tensor, Tensor]:
    """Exchange tensors as `neighbour_exchange_bidir` does, with gradients; every rank must run its backward pass."""
    return NeighbourExchangeBidir.apply(left_rank, right_rank, group, tensor_to_left, tensor_to_right)  # type: ignore[no-any-return, no-untyped-call]


def _transfer(*operations: dist.P2POp) -> None:
    for request in dist.batch_isend_irecv(list(operations)):
        request.wait()
