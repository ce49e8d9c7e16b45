"""Image and text features to the sigmoid loss of SigLIP.

Shapes: B batch of this rank, D joint embedding, W number of ranks.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oneclip.errors import ConfigError
from oneclip.losses.gather import gather_rows, reduce_rows, require_process_group
from oneclip.losses.neighbour_exchange import neighbour_exchange_bidir_with_grad, neighbour_exchange_with_grad
from oneclip.losses.tiled_sigmoid import tiled_sigmoid
from oneclip.losses.tiles import check_tile_size

WAYS = ("bidir", "shift", "reduce", "gather")


class SigLipLoss(nn.Module):
    """A yes or no for every picture and every caption of all ranks (Zhai et al. 2023, algorithm 1).

    Each rank scores its own pictures against the captions of all ranks; the mean over ranks is the loss of the whole
    batch. The ways in which captions travel give the same numbers:

    - `bidir`: from neighbour to neighbour in both directions at once; half as many steps as `shift`.
    - `shift`: from neighbour to neighbour in one direction, as in the paper.
    - `reduce`: by one all-reduce a rank.
    - `gather`: by one all-gather.

    Args:
        cache_labels: accepted for older programs; labels cost nothing to make.
        rank: this process, in [0, world_size).
        world_size: W, number of processes of the initialised torch.distributed group; 1 needs no group.
        dist_impl: the way, one of the above; "bidir" when None.
        tile_size: compute logits in tiles of so many rows and columns, and again on the way back: memory of
            WB x D for features and of a tile, instead of W times B x B for logits that wait for their gradients. About
            1024 is quick; a batch that is smaller is one tile. None holds all logits at once.

    Raises:
        ConfigError: on an unknown way, a rank outside the world, or a tile_size that is none.
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
        if dist_impl not in WAYS:
            raise ConfigError(f"dist_impl is {dist_impl!r}; expected one of {', '.join(WAYS)}")
        if not 0 <= rank < world_size:
            raise ConfigError(
                f"rank {rank} is not in a world of {world_size}; expected 0 <= rank < world_size"
            )
        self.cache_labels = cache_labels
        self.rank = rank
        self.world_size = world_size
        self.dist_impl = dist_impl
        self.tile_size = check_tile_size(tile_size)

    def get_ground_truth(
        self, device: torch.device, dtype: torch.dtype, num_logits: int, negative_only: bool = False
    ) -> Tensor:
        """(num_logits, num_logits): 1 where picture and caption belong together, the diagonal, and -1 elsewhere."""
        labels = -torch.ones(num_logits, num_logits, device=device, dtype=dtype)
        return labels if negative_only else labels.fill_diagonal_(1)

    def get_logits(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor | float,
        logit_bias: Tensor | float | None = None,
    ) -> Tensor:
        """Scaled similarities plus the bias, (B, B); arguments as in `forward`."""
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
        """The loss of this rank's pictures, summed over captions and averaged over pictures.

        Args:
            image_features: (B, D), unit length; B is the same on every rank.
            text_features: (B, D), unit length; row i belongs to row i of the pictures.
            logit_scale: the exponentiated scale.
            logit_bias: added to every logit.
            output_dict: give it by name.

        Returns:
            A scalar, or `{"contrastive_loss": scalar}`.

        Raises:
            ConfigError: if there are several ranks and torch.distributed is not initialised for as many.
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
        """The share of one rank's captions in the loss."""
        if self.tile_size is not None:
            return tiled_sigmoid(
                image_features, text_features, logit_scale, logit_bias, self.tile_size, negative_only
            )
        logits = self.get_logits(image_features, text_features, logit_scale, logit_bias)
        labels = self.get_ground_truth(logits.device, logits.dtype, len(logits), negative_only)
        return -F.logsigmoid(labels * logits).sum() / len(logits)

    def _bidir(self, text: Tensor) -> Iterator[Tensor]:
        """The captions of the other ranks, (B, D) each."""
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
        everyone = {"rank": self.rank, "world_size": self.world_size}
        return self._others(gather_rows(text, **everyone, with_grad=True, keep_local=True))

    def _others(self, rows: Tensor) -> Iterator[Tensor]:
        """(WB, D) to (B, D) of each rank but this one."""
        return (part for rank, part in enumerate(rows.chunk(self.world_size)) if rank != self.rank)

    def _neighbours(self) -> tuple[int, int]:
        """The ranks to the left and to the right of this one."""
        return (self.rank - 1) % self.world_size, (self.rank + 1) % self.world_size
