"""One rank of two: gradients of its half of the pairs in micro-batches, into a file. Run by test_grad_cache.py."""

from __future__ import annotations

import sys
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from oneclip.losses import ClipLoss
from oneclip.model import build_model
from oneclip.train import Batch, Features
from oneclip.train.grad_cache import cached_backward
from tests.ranks import join, leave
from tests.tiny import PIXELS, tiny_cfg


def main(out: str) -> None:
    rank, world = join()
    pairs = some_pairs(10)
    own = Batch(pairs.images.chunk(world)[rank], pairs.texts.chunk(world)[rank])  # type: ignore[union-attr]
    model = DistributedDataParallel(Both(small_model()))
    reductions = []

    def counting(state: Any, bucket: Any) -> Any:
        reductions.append(bucket.index())
        return allreduce_hook(state, bucket)

    counting.__annotations__.clear()  # DistributedDataParallel takes its own words or none
    model.register_comm_hook(None, counting)
    loss = ClipLoss(local_loss=True, gather_with_grad=True, rank=rank, world_size=world, tile_size=4)

    def losses(features: Features, batch: Batch) -> dict[str, Tensor]:
        return {"loss": loss(features.image, features.text, features.logit_scale)}

    cached_backward(model, losses, own, 2, model=model, no_sync=model.no_sync)
    torch.save((gradients_of(model.module.model), reductions.count(0)), f"{out}/{rank}.pt")
    leave()


class Both(nn.Module):
    """One forward pass for both towers, which DistributedDataParallel can see."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Features:
        image, text = self.model.encode_image(batch.images), self.model.encode_text(batch.texts)
        scale = self.model.logit_scale.exp()
        return Features(F.normalize(image, dim=-1), F.normalize(text, dim=-1), scale, None)


def small_model(**changes: Any) -> Any:
    torch.manual_seed(0)
    return build_model(tiny_cfg(**changes)).train()


def some_pairs(count: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    texts = torch.randint(1, 49000, (count, 77), generator=generator)
    texts[:, 9], texts[:, 10:] = 49407, 0
    return Batch(torch.randn(count, 3, PIXELS, PIXELS, generator=generator), texts)


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


if __name__ == "__main__":
    main(*sys.argv[1:])
