"""Contrastive losses that mask false negatives.

Several captions of one image, or several images of one class, match each other. Such pairs are left out of the
negatives, so that the loss does not push them apart (Khosla et al. 2020, section 3, on false negatives).

Shapes: B batch of this rank, D joint embedding, W number of ranks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from oneclip.losses.gather import all_gather, gather_rows


def masked_contrastive_loss(
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
    """Compute the softmax or sigmoid loss of this rank's pairs against those of all ranks, without false negatives.

    Args:
        image, text: (B, D), unit length; B is the same on every rank.
        scale: the exponentiated scale.
        bias: added to every logit; has no effect on the softmax loss.
        same: (B,) int64 group numbers; pairs with the same number, 0 or more, are not negatives of each other.
        is_sigmoid: True for the loss of `SigLipLoss`, False for that of `ClipLoss`.
        rank, world_size: this process among those of the initialized group.
        tile_size: number of rows whose logits are computed at once, and again in the backward pass; None for all.

    Returns:
        A scalar; its mean over ranks is the loss of the whole batch.
    """
    images, texts, numbers = image, text, same
    if world_size > 1:
        ranks = {"rank": rank, "world_size": world_size}
        images = gather_rows(image, **ranks, with_grad=True, keep_local=True)
        texts = gather_rows(text, **ranks, with_grad=True, keep_local=True)
        numbers = torch.cat(all_gather(same))
    count = len(image)
    labels = torch.arange(count, device=image.device) + count * rank  # the column that matches each row

    def chunk_loss(rows: Tensor, columns: Tensor, own: Tensor, label: Tensor) -> Tensor:
        logits = scale * rows @ columns.T  # (rows, WB)
        is_match = label[:, None] == torch.arange(len(columns), device=label.device)
        is_masked = (own[:, None] == numbers) & (own[:, None] >= 0) & ~is_match
        if not is_sigmoid:
            return F.cross_entropy(logits.masked_fill(is_masked, -torch.inf), label, reduction="sum")
        logits = logits if bias is None else logits + bias
        each = F.logsigmoid(torch.where(is_match, logits, -logits))
        return -each.masked_fill(is_masked, 0.0).sum()

    def total_loss(rows: Tensor, columns: Tensor) -> Tensor:
        parts = []
        for start in range(0, count, tile_size or count):
            chunk = slice(start, start + (tile_size or count))
            inputs = (rows[chunk], columns, same[chunk], labels[chunk])
            parts.append(
                checkpoint(chunk_loss, *inputs, use_reentrant=False) if tile_size else chunk_loss(*inputs)
            )
        return torch.stack(parts).sum()

    if is_sigmoid:
        return total_loss(image, texts) / count
    loss = (total_loss(image, texts) + total_loss(text, images)) / (2 * count)
    return loss if bias is None else loss + 0 * bias.sum()  # gives the bias a gradient of zero
