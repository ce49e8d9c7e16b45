"""Sigmoid loss of SigLIP.

Shapes: B batch of this rank, D joint embedding, W number of ranks.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oneclip.errors import ConfigError
from oneclip.losses.gather import check_rank, gather_rows, reduce_rows, require_process_group
from oneclip.losses.neighbour_exchange import neighbour_exchange_bidir_with_grad, neighbour_exchange_with_grad
from oneclip.losses.tiled_sigmoid import tiled_sigmoid
from oneclip.losses.tiles import check_tile_size

DIST_IMPLS = ("bidir", "shift", "reduce", "gather")


class SigLipLoss(nn.Module):
    """Binary cross-entropy over every image and every text of all ranks (Zhai et al. 2023, algorithm 1).

    Each rank compares its own images with the texts of all ranks; the mean over ranks is the loss of the whole batch.
    Texts can be exchanged in four ways, which give the same numbers:

    - `bidir`: between neighbours in both directions at once; half as many steps as `shift`.
    - `shift`: between neighbours in one direction, as in the paper.
    - `reduce`: one all-reduce per rank.
    - `gather`: one all-gather.

    Args:
        cache_labels: accepted for compatibility, no effect.
        rank: this process, in [0, world_size).
        world_size: W, number of processes of the initialized torch.distributed group; 1 needs no group.
        dist_impl: how texts are exchanged, one of the above; None for "bidir".
        tile_size: compute logits in tiles with this many rows and columns, and again in the backward pass. Needs
            memory for WB x D features and one tile, instead of W matrices of B x B logits. About 1024 is fast; a
            smaller batch is one tile. None computes all logits at once.

    Raises:
        ConfigError: on an unknown `dist_impl`, a rank outside the world, or an invalid `tile_size`.
    """

    def __init__(
        self,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        dist_impl: str | None = None,
        *,
        tile_size: int | None = None,
    ) -> None:
        super().__init__()
        dist_impl = dist_impl or "bidir"
        if dist_impl not in DIST_IMPLS:
            raise ConfigError(f"dist_impl is {dist_impl!r}; expected one of {', '.join(DIST_IMPLS)}")
        check_rank(rank, world_size)
        self.cache_labels = cache_labels
        self.rank = rank
        self.world_size = world_size
        self.dist_impl = dist_impl
        self.tile_size = check_tile_size(tile_size)

    def get_ground_truth(
        self, device: torch.device, dtype: torch.dtype, num_logits: int, negative_only: bool = False
    ) -> Tensor:
        """Return labels (num_logits, num_logits): 1 on the diagonal, where image and text match, and -1 elsewhere."""
        labels = -torch.ones(num_logits, num_logits, device=device, dtype=dtype)
        return labels if negative_only else labels.fill_diagonal_(1)

    def get_logits(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor | float,
        logit_bias: Tensor | float | None = None,
    ) -> Tensor:
        """Compute scaled similarities plus the bias, (B, B); arguments as in `forward`."""
        logits = logit_scale * image_features @ text_features.T
        return logits if logit_bias is None else logits + logit_bias

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor | float,
        logit_bias: Tensor | float | None = None,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        """Compute the loss of this rank's images, summed over texts and averaged over images.

        Args:
            image_features: (B, D), unit length; B is the same on every rank.
            text_features: (B, D), unit length; row i matches row i of the images.
            logit_scale: the exponentiated scale.
            logit_bias: added to every logit.
            output_dict: return a dict.

        Returns:
            A scalar, or `{"contrastive_loss": scalar}`.

        Raises:
            ConfigError: if there are several ranks and torch.distributed is not initialized with that number.
        """
        loss = self._loss(image_features, text_features, logit_scale, logit_bias)
        if self.world_size > 1:
            require_process_group(self.world_size)
            for others in getattr(self, f"_{self.dist_impl}")(text_features):
                loss = loss + self._loss(image_features, others, logit_scale, logit_bias, negative_only=True)
        return {"contrastive_loss": loss} if output_dict else loss

    def _loss(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor | float,
        logit_bias: Tensor | float | None = None,
        negative_only: bool = False,
    ) -> Tensor:
        """Compute the part of the loss that comes from the texts of one rank."""
        if self.tile_size is not None:
            return tiled_sigmoid(
                image_features, text_features, logit_scale, logit_bias, self.tile_size, negative_only
            )
        logits = self.get_logits(image_features, text_features, logit_scale, logit_bias)
        labels = self.get_ground_truth(logits.device, logits.dtype, len(logits), negative_only)
        return -F.logsigmoid(labels * logits).sum() / len(logits)

    def _bidir(self, text: Tensor) -> Iterator[Tensor]:
        """Yield the text features of the other ranks, (B, D) each."""
        left, right = self._neighbours()
        steps, remainder = divmod(self.world_size - 1, 2)
        to_left = to_right = text
        for _ in range(steps):
            to_left, to_right = neighbour_exchange_bidir_with_grad(left, right, to_left, to_right)
            yield to_left
            yield to_right
        if remainder:
            yield neighbour_exchange_with_grad(left, right, to_right)

    def _shift(self, text: Tensor) -> Iterator[Tensor]:
        left, right = self._neighbours()
        for _ in range(self.world_size - 1):
            text = neighbour_exchange_with_grad(left, right, text)
            yield text

    def _reduce(self, text: Tensor) -> Iterator[Tensor]:
        return self._others(reduce_rows(text, world_size=self.world_size))

    def _gather(self, text: Tensor) -> Iterator[Tensor]:
        ranks = {"rank": self.rank, "world_size": self.world_size}
        return self._others(gather_rows(text, **ranks, with_grad=True, keep_local=True))

    def _others(self, rows: Tensor) -> Iterator[Tensor]:
        """Split (WB, D) rows into (B, D) for each rank except this one."""
        return (part for rank, part in enumerate(rows.chunk(self.world_size)) if rank != self.rank)

    def _neighbours(self) -> tuple[int, int]:
        """Return the left and the right neighbour of this rank."""
        return (self.rank - 1) % self.world_size, (self.rank + 1) % self.world_size
