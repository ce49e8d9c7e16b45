"""Program of one rank that writes ClipLoss and its gradients for every way of gathering to a file.

Run by test_clip_ranks.py.
"""

from __future__ import annotations

import itertools
import sys

import torch

from oneclip.losses import ClipLoss
from tests.ranks import join, leave


def main(pairs: str, out: str) -> None:
    rank, _ = join()
    image, text = torch.load(pairs)
    size = len(image) // 2
    rows = slice(rank * size, (rank + 1) * size)
    results = {}
    for local_loss, gather_with_grad in itertools.product([False, True], repeat=2):
        own = [image[rows].clone().requires_grad_(), text[rows].clone().requires_grad_()]
        scale = torch.tensor(14.0, requires_grad=True)
        loss = ClipLoss(local_loss, gather_with_grad, rank=rank, world_size=2)(
            *own, scale, torch.tensor(-1.0)
        )
        loss.backward()
        results[local_loss, gather_with_grad] = (loss.detach(), own[0].grad, own[1].grad, scale.grad)
    torch.save(results, f"{out}/{rank}.pt")
    leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
