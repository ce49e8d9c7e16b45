"""Distillation loss between a student and a teacher.

Shapes: B batch of this rank, D joint embedding of the student, T that of the teacher, N images, M texts.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from oneclip.losses.clip import ClipLoss


class DistillClipLoss(ClipLoss):
    """`ClipLoss` plus the cross-entropy of teacher and student similarities (TinyCLIP, Wu et al. 2023).

    Arguments are those of `ClipLoss`, except `tile_size`, which is not supported.
    """

    has_tiled_form = False

    def dist_loss(self, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        """Compute the mean cross-entropy between the row softmaxes of two (N, M) logit matrices, a scalar."""
        return F.cross_entropy(student_logits, teacher_logits.softmax(dim=1))

    def forward(  # type: ignore[override]  # takes the teacher's features, too
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor | float,
        dist_image_features: Tensor,
        dist_text_features: Tensor,
        dist_logit_scale: Tensor | float,
        output_dict: bool = False,
    ) -> tuple[Tensor, Tensor] | dict[str, Tensor]:
        """Compute both losses.

        Args:
            image_features: (B, D) of the student, unit length.
            text_features: (B, D) of the student, unit length.
            logit_scale: the student's, exponentiated.
            dist_image_features: (B, T) of the teacher, unit length; the teacher's width may differ.
            dist_text_features: (B, T) of the teacher, unit length.
            dist_logit_scale: the teacher's, exponentiated.
            output_dict: return a dict.

        Returns:
            Contrastive loss and distance, two scalars; or `{"contrastive_loss": …, "distill_loss": …}`.
        """
        per_image, per_text = self.get_logits(image_features, text_features, logit_scale)
        teacher_logits = self.get_logits(dist_image_features, dist_text_features, dist_logit_scale)
        labels = self.get_ground_truth(image_features.device, per_image.shape[0])
        contrastive = (F.cross_entropy(per_image, labels) + F.cross_entropy(per_text, labels)) / 2
        distance = (
            self.dist_loss(teacher_logits[0], per_image) + self.dist_loss(teacher_logits[1], per_text)
        ) / 2
        if output_dict:
            return {"contrastive_loss": contrastive, "distill_loss": distance}
        return contrastive, distance
