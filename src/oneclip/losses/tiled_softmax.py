"""Softmax loss of CLIP computed in tiles: memory grows with batch x tile.

The forward pass goes once over the tiles of this rank's images against all texts, and updates the log-sum-exp of rows
and columns (as in Milakov & Gimelshein 2018, https://arxiv.org/abs/1805.02867). The backward pass computes the tiles
again. Each rank has its own images, and the statistics of the columns are merged across ranks. Over all ranks, the
product of images and texts is therefore computed once, while the plain loss computes it once for each side.

Shapes: B batch of this rank, W ranks, D joint embedding; a tile has (m, n) logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from oneclip.losses.gather import all_gather, require_process_group
from oneclip.losses.tiles import (
    Tile,
    TiledLogits,
    TileGradients,
    as_scalar,
    compile_for_device,
    to_full_precision,
)


@dataclass(frozen=True)
class RankSettings:
    """Distribution of a batch over ranks; the fields are the arguments of `ClipLoss`.

    Attributes:
        rank: index of this process.
        world_size: W.
        local_loss: each rank computes the loss of its own pairs; otherwise each has the loss of all pairs.
        with_grad: gradients also come from the losses of the other ranks.
    """

    rank: int = 0
    world_size: int = 1
    local_loss: bool = False
    with_grad: bool = True

    @property
    def is_one_sided(self) -> bool:
        """True if images get gradients from rows only and texts from columns only, as in the plain local loss."""
        return self.world_size > 1 and self.local_loss and not self.with_grad


def tiled_softmax(
    image_features: Tensor, text_features: Tensor, logit_scale: Tensor | float, size: int, ranks: RankSettings
) -> Tensor:
    """Compute the loss of `ClipLoss`, the mean cross-entropy of rows and columns, in fp32 or better.

    The gradient of the scale on one rank is that of its own pairs; its mean over ranks is that of the whole batch.

    Args:
        image_features: (B, D), unit length; B is the same on every rank.
        text_features: (B, D), unit length.
        logit_scale: the exponentiated scale.
        size: rows and columns of a tile.

    Returns:
        A scalar.

    Raises:
        ShapeError: if the features are not both (B, D).
        ConfigError: if there are several ranks and torch.distributed is not initialized with that number.
    """
    images, texts = to_full_precision(image_features, text_features)
    scale = as_scalar(logit_scale, images)
    if ranks.world_size == 1:
        return _apply(images, texts, scale, size, ranks)
    require_process_group(ranks.world_size)
    if ranks.local_loss:
        return _apply(images, texts, scale, size, ranks)
    if not ranks.with_grad:
        # the plain loss gives own rows the gradient of one rank's loss; here the gradients of all W are summed
        images, texts = (_divide_gradient(part, ranks.world_size) for part in (images, texts))
    loss: Tensor = _MeanOverRanks.apply(_apply(images, texts, scale, size, ranks), ranks)  # type: ignore[no-untyped-call]
    return loss


def _apply(images: Tensor, texts: Tensor, scale: Tensor, size: int, ranks: RankSettings) -> Tensor:
    loss: Tensor = _TiledSoftmax.apply(images, texts, scale, size, ranks)  # type: ignore[no-untyped-call]
    return loss


class _LogSumExp:
    """Running log-sum-exp of many rows (or columns), updated one tile at a time.

    Maximum and sum of exponentials are stored separately: combined, rounding would lose small losses.
    """

    def __init__(self, count: int, like: Tensor) -> None:
        self.maxima = like.new_full((count,), -torch.inf)
        self.sums = like.new_zeros(count)

    def add(self, where: slice, maxima: Tensor, sums: Tensor) -> None:
        """Add the logits of a tile, given their maxima and the sums of exponentials relative to them."""
        before = self.maxima[where]
        now = torch.maximum(before, maxima)
        self.sums[where] = self.sums[where] * (before - now).exp() + sums * (maxima - now).exp()
        self.maxima[where] = now

    def merge_ranks(self) -> None:
        """Merge the statistics of all ranks."""
        own = self.maxima.clone()
        dist.all_reduce(self.maxima, dist.ReduceOp.MAX)
        self.sums *= (own - self.maxima).exp()
        dist.all_reduce(self.sums)

    def minus(self, logits: Tensor, where: slice) -> Tensor:
        """Compute the log-sum-exp of some rows minus one logit of each."""
        return (self.maxima[where] - logits) + self.sums[where].log()


class _TiledSoftmax(torch.autograd.Function):
    """Loss of one rank's own pairs: its rows against all columns, and its columns against all rows."""

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, texts: Tensor, scale: Tensor, size: int, ranks: RankSettings
    ) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            all_texts = torch.cat(all_gather(texts)) if ranks.world_size > 1 else texts
            tiled = TiledLogits(images, all_texts, scale, size, first=ranks.rank * len(texts))
            rows, columns = _LogSumExp(len(images), images), _LogSumExp(len(all_texts), images)
            positives = images.new_empty(len(images))
            statistics = compile_for_device(_statistics, images.device)
            for tile in tiled.tiles():
                positives[tile.positive_rows] = tile.positives
                row_statistics, column_statistics = statistics(tile.logits)
                rows.add(tile.rows, *row_statistics)
                columns.add(tile.columns, *column_statistics)
            if ranks.world_size > 1:
                columns.merge_ranks()
            own = slice(tiled.first, tiled.first + len(texts))
            everything = slice(None)
            loss = (rows.minus(positives, everything) + columns.minus(positives, own)).mean() / 2
        ctx.save_for_backward(images, all_texts, scale, rows.maxima, rows.sums, columns.maxima, columns.sums)
        ctx.size, ctx.ranks = size, ranks
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        images, texts, scale, row_maxima, row_sums, column_maxima, column_sums = ctx.saved_tensors
        ranks, batch = ctx.ranks, len(images)
        with torch.autocast(images.device.type, enabled=False):
            # the weight of a column is the gradient of the loss of the rank that its text belongs to
            grads = torch.stack(all_gather(grad)) if ranks.world_size > 1 else grad[None]
            row_weight = grad / (2 * batch)
            column_weight = (grads / (2 * batch)).repeat_interleave(batch)
            tiled = TiledLogits(images, texts, scale, ctx.size, first=ranks.rank * batch)
            weights = row_maxima, row_weight / row_sums, column_maxima, column_weight / column_sums
            softmax = compile_for_device(
                _separate_softmax if ranks.is_one_sided else _summed_softmax, images.device
            )

            def tile_gradients(tile: Tile) -> TileGradients:
                where = tile.rows, tile.rows, tile.columns, tile.columns
                shares = softmax(
                    tile.logits, *(weight[at] for weight, at in zip(weights, where, strict=True))
                )
                offset = tiled.first + tile.rows.start - tile.columns.start
                for share in shares:
                    share.diagonal(offset).sub_(row_weight * 2 / len(shares))
                return shares[0], shares[-1]

            image_grad, text_grad, scale_grad = tiled.gradients(
                tile_gradients, ctx.needs_input_grad[:3], ranks.is_one_sided
            )
            if text_grad is not None and ranks.world_size > 1:
                dist.all_reduce(text_grad)
                text_grad = text_grad[tiled.first :][:batch]
        return image_grad, text_grad, scale_grad, None, None


def _statistics(logits: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Compute maxima and sums of exponentials of rows (m,) and columns (n,); overwrites the logits."""
    row_maxima, column_maxima = logits.amax(dim=1), logits.amax(dim=0)
    row_sums = (logits - row_maxima[:, None]).exp_().sum(dim=1)
    column_sums = logits.sub_(column_maxima).exp_().sum(dim=0)
    return (row_maxima, row_sums), (column_maxima, column_sums)


def _separate_softmax(
    logits: Tensor, row_maxima: Tensor, row_weights: Tensor, column_maxima: Tensor, column_weights: Tensor
) -> TileGradients:
    """Compute the weighted softmax of the rows and that of the columns; overwrites the logits."""
    by_row = (logits - row_maxima[:, None]).exp_().mul_(row_weights[:, None])
    by_column = logits.sub_(column_maxima).exp_().mul_(column_weights)
    return by_row, by_column


def _summed_softmax(
    logits: Tensor, row_maxima: Tensor, row_weights: Tensor, column_maxima: Tensor, column_weights: Tensor
) -> tuple[Tensor]:
    """Compute the sum of both softmaxes, the gradient for both images and texts."""
    by_row, by_column = _separate_softmax(logits, row_maxima, row_weights, column_maxima, column_weights)
    return (by_row.add_(by_column),)


class _MeanOverRanks(torch.autograd.Function):
    """Mean of a scalar over ranks; the backward pass averages the gradients too, if `with_grad`."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, ranks: RankSettings) -> Tensor:
        ctx.ranks = ranks
        mean = value / ranks.world_size
        dist.all_reduce(mean)
        return mean

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.ranks.with_grad:
            return grad, None
        mean = grad / ctx.ranks.world_size
        dist.all_reduce(mean)
        return mean, None


def _divide_gradient(tensor: Tensor, divisor: int) -> Tensor:
    """Return the same values, with the gradient divided by `divisor`."""
    detached = tensor.detach()
    return detached + (tensor - detached) / divisor
