"""Losses of pocket: two contrastive losses, and a distance to the vectors of the teacher.

Shapes: B images, M captions without names, N words, D joint embedding, 384 of the teacher.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oneclip.losses import ClipLoss

TEACHER_WIDTH = 384  # of all-MiniLM-L6-v2


class DistilledLoss(nn.Module):
    """Contrastive loss, and a projection to compare with the teacher."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.clip = ClipLoss()
        self.to_teacher = nn.Linear(embed_dim, TEACHER_WIDTH)

    def distil(self, features: Tensor, vectors: Tensor) -> Tensor:
        """Compute the mean cosine distance of projected (N, D) features from (N, 384) vectors."""
        return (1 - F.cosine_similarity(self.to_teacher(features.float()), vectors, dim=-1)).mean()

    @torch.no_grad()
    def fit(self, features: Tensor, vectors: Tensor) -> None:
        """Fit the projection by least squares, for towers that were already trained with the teacher."""
        ones = torch.ones(len(features), 1)
        solution = torch.linalg.lstsq(
            torch.cat([features.float(), ones], 1), vectors
        ).solution  # (D + 1, 384)
        self.to_teacher.weight.copy_(solution[:-1].T)
        self.to_teacher.bias.copy_(solution[-1])


def descriptions_loss(
    image: Tensor, text: Tensor, logit_scale: Tensor, owners: Tensor, also_fits: Tensor
) -> Tensor:
    """Compute a contrastive loss in which pairs that fit by chance are neither positives nor negatives.

    Args:
        image: (B, D), unit length.
        text: (M, D), unit length.
        logit_scale: exponentiated.
        owners: (M,) the image that each caption was written for, no two the same.
        also_fits: (M, B) other images that each caption is true of.
    """
    logits = (logit_scale * text @ image.T).masked_fill(also_fits, -torch.inf)  # (M, B)
    to_image = F.cross_entropy(logits, owners)
    to_text = F.cross_entropy(logits[:, owners].T, torch.arange(len(owners), device=owners.device))
    return (to_image + to_text) / 2
