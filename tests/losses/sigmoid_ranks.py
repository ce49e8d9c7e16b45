"""Program of one rank that writes the sigmoid loss for every `dist_impl` to a file. Run by test_siglip_ranks.py.

The losses are imported from the files given as arguments: our module, or that of open_clip_torch.
"""

from __future__ import annotations

import importlib.util
import itertools
import sys
from typing import Any

import torch

from tests.ranks import join, leave

DIST_IMPLS = ("bidir", "shift", "reduce", "gather")


def main(pairs: str, out: str, *sources: str) -> None:
    rank, world = join()
    image, text = (features.chunk(world)[rank] for features in torch.load(pairs))
    seen = {}
    for source in sources:
        losses = load(source)
        ranks = {"rank": rank, "world_size": world}
        seen[source] = {
            impl: sigmoid(losses.SigLipLoss(**ranks, dist_impl=impl), image, text) for impl in DIST_IMPLS
        }
        for options in itertools.product((False, True), repeat=2):
            seen[source][options] = gathered(losses, options, ranks, image, text)
    torch.save(seen, f"{out}/{rank}.pt")
    leave()


def load(source: str) -> Any:
    spec = importlib.util.spec_from_file_location("losses_by_path", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sigmoid(loss: Any, image: torch.Tensor, text: torch.Tensor) -> list[Any]:
    """Return the loss of this rank, and the gradients of its features, the temperature and the bias."""
    leaves = [image.clone(), text.clone(), torch.tensor(14.0), torch.tensor(-8.0)]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    value = loss(*leaves)
    value.backward()
    return [value.detach(), *(leaf.grad for leaf in leaves)]


def gathered(losses: Any, options: tuple[bool, bool], ranks: Any, image: Any, text: Any) -> list[Any]:
    """Return the output of `gather_features`, and the gradients of a weighted sum of its rows."""
    own = [image.clone().requires_grad_(), text.clone().requires_grad_()]
    images, texts = losses.gather_features(*own, *options, **ranks)
    rows = torch.arange(1.0, len(images) + 1)[:, None] * (1 + ranks["rank"])
    total = (rows * images * texts.detach()).sum() + (rows * texts).sum()
    if total.requires_grad:
        total.backward()
    zeros = torch.zeros_like(image)
    return [images.detach(), texts.detach(), *(zeros if part.grad is None else part.grad for part in own)]


if __name__ == "__main__":
    main(*sys.argv[1:])
