"""Contrastive losses over batches in which some pairs are no negatives of each other.

Several captions of one image, or several images of one class, belong together: a loss that pushes them apart teaches
the wrong thing. Here such pairs are left out of the negatives (Khosla et al. 2020, section 3, on false negatives).

Shapes: B batch of this rank, D joint embedding, W number of ranks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from oneclip.losses.gather import all_gather, gather_rows


def contrast_without_same(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    same: Tensor,
    *,
    is_sigmoid: bool,
    rank: int = 0,
    world_size: int = 1,
    tile_size: int | None = None,
) -> Tensor:
    """The softmax or the sigmoid loss of this rank's pairs against those of all ranks.

    Args:
        image, text: (B, D), unit length; B is the same on every rank.
        scale: the exponentiated scale.
        bias: added to every logit; a softmax does not see it.
        same: (B,) int64; pairs with the same number, 0 or more, are no negatives of each other.
        is_sigmoid: which loss: that of `SigLipLoss`, or of `ClipLoss`.
        rank, world_size: this process among those of the initialised group.
        tile_size: rows whose logits are held at once, and made again on the way back; None for all.

    Returns:
        A scalar, whose mean over ranks is the loss of the whole batch.
    """
    images, texts, numbers = image, text, same
    if world_size > 1:
        everyone = {"rank": rank, "world_size": world_size}
        images = gather_rows(image, **everyone, with_grad=True, keep_local=True)
        texts = gather_rows(text, **everyone, with_grad=True, keep_local=True)
        numbers = torch.cat(all_gather(same))
    count = len(image)
    labels = torch.arange(count, device=image.device) + count * rank  # the column of each row's partner

    def one_way(rows: Tensor, columns: Tensor, own: Tensor, label: Tensor) -> Tensor:
        logits = scale * rows @ columns.T  # (rows, WB)
        is_partner = label[:, None] == torch.arange(len(columns), device=label.device)
        is_left_out = (own[:, None] == numbers) & (own[:, None] >= 0) & ~is_partner
        if not is_sigmoid:
            return F.cross_entropy(logits.masked_fill(is_left_out, -torch.inf), label, reduction="sum")
        logits = logits if bias is None else logits + bias
        each = F.logsigmoid(torch.where(is_partner, logits, -logits))
        return -each.masked_fill(is_left_out, 0.0).sum()

    def summed(rows: Tensor, columns: Tensor) -> Tensor:
        size = tile_size or count
        parts = [
            checkpoint(one_way, *part, use_reentrant=False) if tile_size else one_way(*part)
            for start in range(0, count, size)
            for part in [
                (
                    rows[start : start + size],
                    columns,
                    same[start : start + size],
                    labels[start : start + size],
                )
            ]
        ]
        return torch.stack(parts).sum()

    if is_sigmoid:
        return summed(image, texts) / count
    loss = (summed(image, texts) + summed(text, images)) / (2 * count)
    return loss if bias is None else loss + 0 * bias.sum()  # its gradient is there, and zero
