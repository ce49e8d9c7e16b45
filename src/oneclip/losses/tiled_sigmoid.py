"""Sigmoid loss of SigLIP computed in tiles, to save memory.

Tiles of logits are computed again in the backward pass.

Shapes: M images and texts, D joint embedding; a tile has (m, n) logits.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from oneclip.losses.tiles import (
    Tile,
    TiledLogits,
    TileGradients,
    as_scalar,
    compile_for_device,
    to_full_precision,
)


def tiled_sigmoid(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float | None,
    size: int,
    negative_only: bool = False,
) -> Tensor:
    """Compute the loss of `SigLipLoss`, summed over all pairs and divided by the number of images, in fp32 or better.

    Args:
        image_features: (M, D), unit length.
        text_features: (M, D), unit length; row i matches row i of the images.
        logit_scale: the exponentiated scale.
        logit_bias: added to every logit.
        size: rows and columns of a tile.
        negative_only: no image matches any text.

    Returns:
        A scalar.

    Raises:
        ShapeError: if the features are not both (M, D).
    """
    images, texts = to_full_precision(image_features, text_features)
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
        costs = images.new_zeros(len(images))  # one per row: a single sum would lose small values to rounding
        cost = compile_for_device(_cost, images.device)
        with torch.autocast(images.device.type, enabled=False):
            for tile in TiledLogits(images, texts, scale, size).tiles():
                costs[tile.rows] += cost(_signed_logits(tile, bias, negative_only))
        return costs.mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        images, texts, scale, bias = ctx.saved_tensors
        pair_grad = grad / len(images)
        bias_grad = images.new_zeros(len(images))
        slope = compile_for_device(_slope, images.device)

        def tile_gradients(tile: Tile) -> TileGradients:
            slopes = slope(_signed_logits(tile, bias, ctx.negative_only), pair_grad)
            if not ctx.negative_only:
                slopes.diagonal(tile.rows.start - tile.columns.start).neg_()
            bias_grad[tile.rows] += slopes.sum(dim=1)
            return slopes, slopes

        with torch.autocast(images.device.type, enabled=False):
            tiled = TiledLogits(images, texts, scale, ctx.size)
            image_grad, text_grad, scale_grad = tiled.gradients(tile_gradients, ctx.needs_input_grad[:3])
        return image_grad, text_grad, scale_grad, bias_grad.sum(), None, None


def _signed_logits(tile: Tile, bias: Tensor, negative_only: bool) -> Tensor:
    """Negate the logits of matching pairs, so that the loss of every pair grows with its logit."""
    logits = tile.logits.add_(bias)
    if not negative_only:
        tile.positives.neg_()
    return logits


def _cost(logits: Tensor) -> Tensor:
    """Sum the loss of each row; overwrites the logits."""
    return -F.logsigmoid(logits.neg_()).sum(dim=1)


def _slope(logits: Tensor, pair_grad: Tensor) -> Tensor:
    return logits.sigmoid_().mul_(pair_grad)
