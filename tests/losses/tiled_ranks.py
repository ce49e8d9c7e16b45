"""Program of one rank that writes the losses, tiled and plain, to a file. Run by test_tiled_ranks.py."""

from __future__ import annotations

import itertools
import sys
from typing import Any

import torch
from torch import Tensor, nn

from oneclip.losses import ClipLoss, SigLipLoss
from tests.ranks import join, leave

TILES = (None, 3, 64)
UNEVEN = "uneven"  # gradients are gathered, and the losses of the ranks are weighted by 1, 2, …


def main(pairs: str, out: str) -> None:
    rank, world = join()
    image, text = (features.chunk(world)[rank] for features in torch.load(pairs))
    ranks: dict[str, Any] = {"rank": rank, "world_size": world}
    seen: dict[Any, list[Tensor]] = {}
    for size in TILES:
        for is_local, with_grad in itertools.product((False, True), repeat=2):
            loss = ClipLoss(is_local, with_grad, **ranks, tile_size=size)
            seen["softmax", is_local, with_grad, size] = observe(loss, image, text)
            if with_grad:
                seen["softmax", is_local, UNEVEN, size] = observe(loss, image, text, weight=1.0 + rank)
        for way in ("bidir", "shift", "reduce", "gather"):
            loss = SigLipLoss(**ranks, dist_impl=way, tile_size=size)
            seen["sigmoid", way, size] = observe(loss, image, text)
    torch.save(seen, f"{out}/{rank}.pt")
    leave()


def observe(loss: nn.Module, image: Tensor, text: Tensor, weight: float = 1.0) -> list[Tensor]:
    """Return the loss of this rank, and the gradients of its features, the temperature and the bias."""
    leaves = [image.clone(), text.clone(), torch.tensor(14.0), torch.tensor(-8.0)]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    value = loss(*leaves)
    (weight * value).backward()
    return [value.detach(), *(leaf.grad for leaf in leaves)]  # type: ignore[misc]


if __name__ == "__main__":
    main(*sys.argv[1:])
