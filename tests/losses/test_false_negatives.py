"""Matching pairs are left out of the negatives; without any, the loss equals the published one."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from oneclip.losses import ClipLoss, SigLipLoss
from oneclip.losses.false_negatives import masked_contrastive_loss

SCALE, BIAS = torch.tensor(7.0), torch.tensor(-3.0)
SAME = torch.tensor([4, 9, 4, -1, -1, 9, 9])


def features(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(7, 5, generator=generator), dim=-1)


def by_hand(image: Tensor, text: Tensor, is_sigmoid: bool) -> float:
    """Compute the loss with plain Python numbers: for each row, the match against the rows of other groups."""
    logits = (SCALE * image @ text.T).tolist()
    total = 0.0
    for i in range(7):
        others = [j for j in range(7) if j != i and (SAME[i] < 0 or SAME[i] != SAME[j])]
        if is_sigmoid:
            bias = float(BIAS)
            total += math.log1p(math.exp(-(logits[i][i] + bias)))
            total += sum(math.log1p(math.exp(logits[i][j] + bias)) for j in others)
        else:
            for row in (logits[i], [logits[j][i] for j in range(7)]):
                total += math.log(sum(math.exp(row[j]) for j in [i, *others])) - row[i]
    return total / 7 if is_sigmoid else total / 14


@pytest.mark.parametrize("tile_size", [None, 3])
@pytest.mark.parametrize("is_sigmoid", [False, True])
def test_pairs_of_one_group_are_not_negatives(is_sigmoid: bool, tile_size: int | None) -> None:
    image, text = features(0), features(1)
    loss = masked_contrastive_loss(
        image, text, SCALE, BIAS if is_sigmoid else None, SAME, is_sigmoid=is_sigmoid, tile_size=tile_size
    )
    assert float(loss) == pytest.approx(by_hand(image, text, is_sigmoid), rel=1e-5)


@pytest.mark.parametrize("tile_size", [None, 3])
@pytest.mark.parametrize("is_sigmoid", [False, True])
def test_without_groups_loss_and_gradients_are_the_published_ones(
    is_sigmoid: bool, tile_size: int | None
) -> None:
    found = []
    for way in ("ours", "published"):
        image, text = features(0).requires_grad_(), features(1).requires_grad_()
        if way == "ours":
            numbers = torch.arange(7)
            loss = masked_contrastive_loss(
                image, text, SCALE, BIAS, numbers, is_sigmoid=is_sigmoid, tile_size=tile_size
            )
        else:
            published = SigLipLoss() if is_sigmoid else ClipLoss()
            loss = published(image, text, SCALE, BIAS)
        loss.backward()
        found.append((loss.detach(), image.grad, text.grad))
    torch.testing.assert_close(found[0], found[1])
