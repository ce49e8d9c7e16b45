"""Contrastive softmax loss of CLIP.

Shapes: B batch of this rank, D joint embedding, W number of ranks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oneclip.errors import ConfigError
from oneclip.losses.gather import check_rank, gather_rows
from oneclip.losses.tiled_softmax import RankSettings, tiled_softmax
from oneclip.losses.tiles import check_tile_size


class ClipLoss(nn.Module):
    """Softmax cross-entropy over the pairs of a batch, both ways (Radford et al. 2021, figure 3).

    Args:
        local_loss: each rank compares its own rows with those of every rank, instead of all with all. Needs memory
            for B x WB logits instead of WB x WB.
        gather_with_grad: send gradients back to the ranks that the gathered rows came from. Without it, gradients
            flow only through this rank's own rows; with `local_loss`, only through the side that is not gathered.
        cache_labels: keep the labels of the last batch size.
        rank: this process, in [0, world_size).
        world_size: number of processes of the initialized torch.distributed group; 1 needs no group.
        use_horovod: not supported; part of the published signature.
        tile_size: compute logits in tiles with this many rows and columns, and again in the backward pass. Needs
            memory for B x tile_size logits instead of WB x WB. About 1024 is fast; a smaller batch is one tile. None
            computes all logits at once.

    Raises:
        ConfigError: on `use_horovod`, a rank outside the world, or an invalid `tile_size`.
    """

    has_tiled_form = True

    def __init__(
        self,
        local_loss: bool = False,
        gather_with_grad: bool = False,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        use_horovod: bool = False,
        *,
        tile_size: int | None = None,
    ) -> None:
        super().__init__()
        if use_horovod:
            raise ConfigError(
                "ClipLoss uses torch.distributed and does not support Horovod; leave use_horovod out"
            )
        check_rank(rank, world_size)
        self.local_loss = local_loss
        self.gather_with_grad = gather_with_grad
        self.cache_labels = cache_labels
        self.rank = rank
        self.world_size = world_size
        self.use_horovod = use_horovod
        self.tile_size = check_tile_size(tile_size)
        if tile_size is not None and not self.has_tiled_form:
            raise ConfigError(
                f"{type(self).__name__} has no tiled form, because it needs all logits; leave tile_size out"
            )
        self.prev_num_logits = 0
        self.labels: dict[torch.device, Tensor] = {}

    def get_ground_truth(self, device: torch.device, num_logits: int) -> Tensor:
        """Return the column of the matching item for each row: (num_logits,) int64."""
        if self.cache_labels and self.prev_num_logits == num_logits and device in self.labels:
            return self.labels[device]
        labels = torch.arange(num_logits, device=device)
        if self.world_size > 1 and self.local_loss:
            labels = labels + num_logits * self.rank
        if self.cache_labels:
            if self.prev_num_logits != num_logits:
                self.labels.clear()
            self.labels[device] = labels
            self.prev_num_logits = num_logits
        return labels

    def get_logits(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor | float,
        logit_bias: Tensor | float | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Compute scaled similarities, per image and per text.

        Args:
            image_features: (B, D), unit length.
            text_features: (B, D), unit length.
            logit_scale: the exponentiated scale.
            logit_bias: added to every logit.

        Returns:
            Two matrices: (B, B) on one rank, (B, WB) with `local_loss`, else (WB, WB).
        """
        if self.world_size == 1:
            per_image = logit_scale * image_features @ text_features.T
            per_text = logit_scale * text_features @ image_features.T
        else:
            all_images, all_texts = self._gather(image_features), self._gather(text_features)
            if self.local_loss:
                per_image = logit_scale * image_features @ all_texts.T
                per_text = logit_scale * text_features @ all_images.T
            else:
                per_image = logit_scale * all_images @ all_texts.T
                per_text = per_image.T
        if logit_bias is not None:
            per_image, per_text = per_image + logit_bias, per_text + logit_bias
        return per_image, per_text

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor | float,
        logit_bias: Tensor | float | None = None,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        """Compute the mean of the two cross-entropies: a scalar, or `{"contrastive_loss": scalar}`.

        Row i of the images belongs to row i of the texts. Arguments are those of `get_logits`.
        """
        if self.tile_size is not None:
            loss = self._tiled_loss(image_features, text_features, logit_scale, logit_bias)
            return {"contrastive_loss": loss} if output_dict else loss
        per_image, per_text = self.get_logits(image_features, text_features, logit_scale, logit_bias)
        labels = self.get_ground_truth(image_features.device, per_image.shape[0])
        loss = (F.cross_entropy(per_image, labels) + F.cross_entropy(per_text, labels)) / 2
        return {"contrastive_loss": loss} if output_dict else loss

    def _tiled_loss(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor | float,
        logit_bias: Tensor | float | None,
    ) -> Tensor:
        assert self.tile_size is not None
        ranks = RankSettings(self.rank, self.world_size, self.local_loss, self.gather_with_grad)
        loss = tiled_softmax(image_features, text_features, logit_scale, self.tile_size, ranks)
        if isinstance(logit_bias, Tensor):
            loss = (
                loss + 0 * logit_bias.sum()
            )  # a bias does not change a softmax; this gives it a gradient of zero
        return loss

    def _gather(self, features: Tensor) -> Tensor:
        return gather_rows(
            features,
            rank=self.rank,
            world_size=self.world_size,
            with_grad=self.gather_with_grad,
            keep_local=not self.local_loss,
        )
