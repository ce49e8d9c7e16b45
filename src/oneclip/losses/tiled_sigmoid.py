"""Image and text features to the sigmoid loss of SigLIP in tiles, computed again on the way back.

Shapes: M pictures and captions, D joint embedding; a tile is of (m, n) logits.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from oneclip.losses.tiles import Pairs, Tile, TileGradients, as_scalar, in_full_precision, on_device


def tiled_sigmoid(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float | None,
    size: int,
    negative_only: bool = False,
) -> Tensor:
    """The sum over all pairs over the number of pictures, as `SigLipLoss` gives it, in fp32 or better.

    Args:
        image_features: (M, D), unit length.
        text_features: (M, D), unit length; row i belongs to row i of the pictures.
        logit_scale: the exponentiated scale.
        logit_bias: added to every logit.
        size: rows and columns of a tile.
        negative_only: no picture belongs to any caption.

    Returns:
        A scalar.

    Raises:
        ShapeError: if features are not (M, D) both.
    """
    images, texts = in_full_precision(image_features, text_features)
    scale = as_scalar(logit_scale, images)
    bias = as_scalar(0.0 if logit_bias is None else logit_bias, images)
    loss: Tensor = _TiledSigmoid.apply(images, texts, scale, bias, size, negative_only)  # type: ignore[no-untyped-call]
    return loss


class _TiledSigmoid(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        texts: Tensor,
        scale: Tensor,
        bias: Tensor,
        size: int,
        negative_only: bool,
    ) -> Tensor:
        ctx.save_for_backward(images, texts, scale, bias)
        ctx.size, ctx.negative_only = size, negative_only
        costs = images.new_zeros(len(images))  # one sum would round away what many small tiles add
        cost = on_device(_cost, images.device)
        with torch.autocast(images.device.type, enabled=False):
            for tile in Pairs(images, texts, scale, size).tiles():
                costs[tile.rows] += cost(_towards_no(tile, bias, negative_only))
        return costs.mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        images, texts, scale, bias = ctx.saved_tensors
        of_pair = grad / len(images)
        of_bias = images.new_zeros(len(images))
        slope = on_device(_slope, images.device)

        def of_tile(tile: Tile) -> TileGradients:
            slopes = slope(_towards_no(tile, bias, ctx.negative_only), of_pair)
            if not ctx.negative_only:
                slopes.diagonal(tile.rows.start - tile.columns.start).neg_()
            of_bias[tile.rows] += slopes.sum(dim=1)
            return slopes, slopes

        with torch.autocast(images.device.type, enabled=False):
            pairs = Pairs(images, texts, scale, ctx.size)
            of_images, of_texts, of_scale = pairs.gradients(of_tile, ctx.needs_input_grad[:3])
        return of_images, of_texts, of_scale, of_bias.sum(), None, None


def _towards_no(tile: Tile, bias: Tensor, negative_only: bool) -> Tensor:
    """Logits with the sign in which the loss grows with them: as they are, and turned where yes is right."""
    logits = tile.logits.add_(bias)
    if not negative_only:
        tile.positives.neg_()
    return logits


def _cost(logits: Tensor) -> Tensor:
    """The sum of each row; logits are lost."""
    return -F.logsigmoid(logits.neg_()).sum(dim=1)


def _slope(logits: Tensor, of_pair: Tensor) -> Tensor:
    return logits.sigmoid_().mul_(of_pair)
