"""Image and text features to the softmax loss of CLIP in tiles: memory grows with batch x tile.

Going forward, one sweep over the tiles of this rank's pictures against all captions streams the log-sum-exp of rows and
of columns (as in Milakov & Gimelshein 2018, https://arxiv.org/abs/1805.02867). Going back, tiles are computed again.
Across ranks each has its own pictures, and what it knows of columns is merged: the product of pictures and captions is
computed once in all, where the plain loss computes it from both sides.

Shapes: B batch of this rank, W ranks, D joint embedding; a tile is of (m, n) logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from oneclip.losses.gather import all_gather, require_process_group
from oneclip.losses.tiles import Pairs, Tile, TileGradients, as_scalar, in_full_precision, on_device


@dataclass(frozen=True)
class Ranks:
    """How the pairs of a batch are spread.

    Attributes:
        rank: this one.
        world_size: W.
        local_loss: each rank has the loss of its own pairs; otherwise each has that of all.
        with_grad: gradients reach a rank's features through what other ranks made of them, too.
    """

    rank: int = 0
    world_size: int = 1
    local_loss: bool = False
    with_grad: bool = True

    @property
    def is_one_sided(self) -> bool:
        """Pictures learn from rows alone, captions from columns alone: what the plain local loss then gives."""
        return self.world_size > 1 and self.local_loss and not self.with_grad


def tiled_softmax(
    image_features: Tensor, text_features: Tensor, logit_scale: Tensor | float, size: int, ranks: Ranks
) -> Tensor:
    """The mean of the cross-entropies of rows and columns, as `ClipLoss` gives it, in fp32 or better.

    The gradients of a scale averaged over ranks are those of the whole batch; those of one rank are of its share.

    Args:
        image_features: (B, D), unit length; B is the same on every rank.
        text_features: (B, D), unit length.
        logit_scale: the exponentiated scale.
        size: rows and columns of a tile.

    Returns:
        A scalar.

    Raises:
        ShapeError: if features are not (B, D) both.
        ConfigError: if there are several ranks and torch.distributed is not initialised for as many.
    """
    images, texts = in_full_precision(image_features, text_features)
    scale = as_scalar(logit_scale, images)
    if ranks.world_size == 1:
        return _apply(images, texts, scale, size, ranks)
    require_process_group(ranks.world_size)
    if ranks.local_loss:
        return _apply(images, texts, scale, size, ranks)
    if not ranks.with_grad:
        # the plain loss then gives own rows their share in one rank's loss, here they get it from all of W
        images, texts = (_with_gradient_over(part, ranks.world_size) for part in (images, texts))
    loss: Tensor = _MeanOverRanks.apply(_apply(images, texts, scale, size, ranks), ranks)  # type: ignore[no-untyped-call]
    return loss


def _apply(images: Tensor, texts: Tensor, scale: Tensor, size: int, ranks: Ranks) -> Tensor:
    loss: Tensor = _TiledSoftmax.apply(images, texts, scale, size, ranks)  # type: ignore[no-untyped-call]
    return loss


class _LogSumExp:
    """The log-sum-exp of many rows (or columns), whose logits come a tile at a time.

    Held as maximum and sum of exponentials apart: adding them up would round away small losses.
    """

    def __init__(self, count: int, like: Tensor) -> None:
        self.maxima = like.new_full((count,), -torch.inf)
        self.sums = like.new_zeros(count)

    def add(self, where: slice, maxima: Tensor, sums: Tensor) -> None:
        """Take in those logits of some rows whose maxima, and sums of exponentials over them, these are."""
        before = self.maxima[where]
        now = torch.maximum(before, maxima)
        self.sums[where] = self.sums[where] * (before - now).exp() + sums * (maxima - now).exp()
        self.maxima[where] = now

    def merge_ranks(self) -> None:
        """Take in what the other ranks have seen."""
        own = self.maxima.clone()
        dist.all_reduce(self.maxima, dist.ReduceOp.MAX)
        self.sums *= (own - self.maxima).exp()
        dist.all_reduce(self.sums)

    def above(self, logits: Tensor, where: slice) -> Tensor:
        """By how much the log-sum-exp of some rows exceeds a logit of each."""
        return (self.maxima[where] - logits) + self.sums[where].log()


class _TiledSoftmax(torch.autograd.Function):
    """The loss of a rank's own pairs: its rows against all columns, and its columns against all rows."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, texts: Tensor, scale: Tensor, size: int, ranks: Ranks) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            all_texts = torch.cat(all_gather(texts)) if ranks.world_size > 1 else texts
            pairs = Pairs(images, all_texts, scale, size, first=ranks.rank * len(texts))
            rows, columns = _LogSumExp(len(images), images), _LogSumExp(len(all_texts), images)
            positives = images.new_empty(len(images))
            statistics = on_device(_statistics, images.device)
            for tile in pairs.tiles():
                positives[tile.of_positives] = tile.positives
                of_rows, of_columns = statistics(tile.logits)
                rows.add(tile.rows, *of_rows)
                columns.add(tile.columns, *of_columns)
            if ranks.world_size > 1:
                columns.merge_ranks()
            own = slice(pairs.first, pairs.first + len(texts))
            everything = slice(None)
            loss = (rows.above(positives, everything) + columns.above(positives, own)).mean() / 2
        ctx.save_for_backward(images, all_texts, scale, rows.maxima, rows.sums, columns.maxima, columns.sums)
        ctx.size, ctx.ranks = size, ranks
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        images, texts, scale, row_maxima, row_sums, column_maxima, column_sums = ctx.saved_tensors
        ranks, batch = ctx.ranks, len(images)
        with torch.autocast(images.device.type, enabled=False):
            # a column weighs what the loss of the rank weighs whose caption it is
            grads = torch.stack(all_gather(grad)) if ranks.world_size > 1 else grad[None]
            of_row = grad / (2 * batch)
            of_column = (grads / (2 * batch)).repeat_interleave(batch)
            pairs = Pairs(images, texts, scale, ctx.size, first=ranks.rank * batch)
            weights = row_maxima, of_row / row_sums, column_maxima, of_column / column_sums
            softmax = on_device(_one_side if ranks.is_one_sided else _both_sides, images.device)

            def of_tile(tile: Tile) -> TileGradients:
                where = tile.rows, tile.rows, tile.columns, tile.columns
                shares = softmax(
                    tile.logits, *(weight[at] for weight, at in zip(weights, where, strict=True))
                )
                offset = pairs.first + tile.rows.start - tile.columns.start
                for share in shares:
                    share.diagonal(offset).sub_(of_row * 2 / len(shares))
                return shares[0], shares[-1]

            of_images, of_texts, of_scale = pairs.gradients(
                of_tile, ctx.needs_input_grad[:3], ranks.is_one_sided
            )
            if of_texts is not None and ranks.world_size > 1:
                dist.all_reduce(of_texts)
                of_texts = of_texts[pairs.first :][:batch]
        return of_images, of_texts, of_scale, None, None


def _statistics(logits: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Maxima, and sums of exponentials over them, of the rows (m,) and of the columns (n,); logits are lost."""
    row_maxima, column_maxima = logits.amax(dim=1), logits.amax(dim=0)
    row_sums = (logits - row_maxima[:, None]).exp_().sum(dim=1)
    column_sums = logits.sub_(column_maxima).exp_().sum(dim=0)
    return (row_maxima, row_sums), (column_maxima, column_sums)


def _one_side(
    logits: Tensor, row_maxima: Tensor, of_rows: Tensor, column_maxima: Tensor, of_columns: Tensor
) -> TileGradients:
    """The softmax of rows and that of columns, weighted; logits are lost."""
    by_row = (logits - row_maxima[:, None]).exp_().mul_(of_rows[:, None])
    by_column = logits.sub_(column_maxima).exp_().mul_(of_columns)
    return by_row, by_column


def _both_sides(
    logits: Tensor, row_maxima: Tensor, of_rows: Tensor, column_maxima: Tensor, of_columns: Tensor
) -> tuple[Tensor]:
    """Their sum, for pictures and captions alike."""
    by_row, by_column = _one_side(logits, row_maxima, of_rows, column_maxima, of_columns)
    return (by_row.add_(by_column),)


class _MeanOverRanks(torch.autograd.Function):
    """The mean of the ranks' scalars, and on the way back that of their gradients, unless each keeps its own."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, ranks: Ranks) -> Tensor:
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


def _with_gradient_over(tensor: Tensor, divisor: int) -> Tensor:
    """The same numbers, to which only such a part of the gradient flows back."""
    still = tensor.detach()
    return still + (tensor - still) / divisor
