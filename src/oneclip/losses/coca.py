"""Contrastive and captioning losses of CoCa.

Shapes: B batch of this rank, D joint embedding, L tokens, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from oneclip.losses.clip import ClipLoss


class CoCaLoss(ClipLoss):
    """Weighted contrastive and captioning losses (Yu et al. 2022, equation 4).

    Args:
        caption_loss_weight: weight of the cross-entropy of the next tokens.
        clip_loss_weight: weight of the contrastive loss; 0 skips it, and no features are gathered.
        pad_id: label of padding, which the captioning loss ignores.
        local_loss, gather_with_grad, cache_labels, rank, world_size, use_horovod, tile_size: as in `ClipLoss`.
            Each rank computes the captioning loss of its own captions. The mean over ranks equals the loss of all
            captions if every rank has the same number of tokens.
    """

    def __init__(
        self,
        caption_loss_weight: float,
        clip_loss_weight: float,
        pad_id: int = 0,
        local_loss: bool = False,
        gather_with_grad: bool = False,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        use_horovod: bool = False,
        *,
        tile_size: int | None = None,
    ) -> None:
        super().__init__(
            local_loss, gather_with_grad, cache_labels, rank, world_size, use_horovod, tile_size=tile_size
        )
        self.caption_loss_weight = caption_loss_weight
        self.clip_loss_weight = clip_loss_weight
        self.pad_id = pad_id

    def forward(  # type: ignore[override]  # takes the outputs of `CoCa.forward`
        self,
        image_features: Tensor,
        text_features: Tensor,
        logits: Tensor,
        labels: Tensor,
        logit_scale: Tensor | float,
        output_dict: bool = False,
    ) -> tuple[Tensor, Tensor] | dict[str, Tensor]:
        """Compute both losses, weighted.

        Args:
            image_features: (B, D), unit length.
            text_features: (B, D), unit length.
            logits: (B, L, V), for the next tokens.
            labels: (B, L) int64 ids of the next tokens.
            logit_scale: the exponentiated scale.
            output_dict: return a dict.

        Returns:
            Contrastive and captioning loss, two scalars; or `{"contrastive_loss": …, "caption_loss": …}`.
        """
        if self.clip_loss_weight:
            contrastive = super().forward(image_features, text_features, logit_scale)
            assert isinstance(contrastive, Tensor)
            contrastive = self.clip_loss_weight * contrastive
        else:
            contrastive = torch.tensor(0.0, device=logits.device)
        caption = F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=self.pad_id)
        caption = self.caption_loss_weight * caption
        if output_dict:
            return {"contrastive_loss": contrastive, "caption_loss": caption}
        return contrastive, caption
