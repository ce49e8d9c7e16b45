"""Forward and backward passes of two parts of a model in two threads.

On a few cores that do other work as well, two threads that never wait for each other are several times as fast as
two that share every operation.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

Parts = tuple[Callable[[], Tensor], Callable[[], Tensor]]


def side_by_side(parts: Parts, pool: ThreadPoolExecutor) -> tuple[Tensor, Tensor]:
    """Run two functions that share no trained tensor, and return their differentiable results.

    Args:
        parts: each called in a thread, where gradients are on and autocast is off.
        pool: of two threads.
    """
    graphs = tuple(pool.map(lambda part: part(), parts))
    hook = torch.zeros((), requires_grad=True)  # makes autograd call backward of _Joined
    return _Joined.apply(hook, pool, graphs)  # type: ignore[no-any-return]


class _Joined(torch.autograd.Function):
    """Function that detaches two tensors from their graphs, and runs the backward passes in the pool."""

    @staticmethod
    def forward(
        ctx: Any, hook: Tensor, pool: ThreadPoolExecutor, graphs: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        ctx.pool, ctx.graphs = pool, graphs
        return graphs[0].detach().clone(), graphs[1].detach().clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, ...]:
        list(ctx.pool.map(torch.autograd.backward, ctx.graphs, gradients))
        ctx.graphs = ()
        return None, None, None
