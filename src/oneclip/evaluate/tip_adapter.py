"""Tip-Adapter: a few-shot classifier without training, from a cache of images beside the zero-shot classifier.

Zhang et al. 2022, "Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification", section 3.

Shapes: N images, S images of the cache, C classes, D joint embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

DEFAULT_ALPHA, DEFAULT_BETA = 1.0, 5.5  # of the paper, for ImageNet
ALPHAS: Sequence[float] = tuple(np.geomspace(0.1, 100, 13).tolist())
BETAS: Sequence[float] = tuple(np.geomspace(0.5, 64, 15).tolist())


@dataclass(frozen=True)
class TipAdapter:
    """Zero-shot classifier with a cache of labelled images.

    The logits of an image are those of the zero-shot classifier, plus alpha times the sum of exp(-beta (1 - cosine))
    over the images of the cache that have the class.

    Attributes:
        text_weight: (D, C) zero-shot classifier.
        logit_scale: factor of its cosines.
        keys: (S, D) unit-length embeddings of the cache.
        values: (S, C) their classes, one-hot.
        alpha: weight of the cache.
        beta: sharpness; the larger, the more the nearest images count.
    """

    text_weight: Tensor
    logit_scale: float
    keys: Tensor
    values: Tensor
    alpha: float = DEFAULT_ALPHA
    beta: float = DEFAULT_BETA

    def scores(self, images: Tensor) -> Tensor:
        """Compute the logits (N, C) of unit-length embeddings (N, D)."""
        affinity = torch.exp(-self.beta * (1 - images @ self.keys.T))  # (N, S)
        return self.logit_scale * images @ self.text_weight + self.alpha * affinity @ self.values


def make_tip_adapter(
    text_weight: Tensor,
    logit_scale: float,
    embeddings: Tensor,
    labels: Tensor,
    validation: tuple[Tensor, Tensor] | None = None,
) -> TipAdapter:
    """Make a Tip-Adapter; alpha and beta are those with the highest accuracy on validation images.

    The cross-entropy decides between equal accuracies.

    Args:
        text_weight, logit_scale: of the zero-shot classifier.
        embeddings: (S, D) of the cache, of unit length.
        labels: (S,) int64.
        validation: embeddings and labels to search with; None for the paper's values.
    """
    values = F.one_hot(labels, text_weight.shape[1]).to(embeddings.dtype)
    if validation is None:
        return TipAdapter(text_weight, logit_scale, embeddings, values)
    images, targets = validation
    zero_shot, cosines = logit_scale * images @ text_weight, images @ embeddings.T
    best = (-1.0, 0.0, DEFAULT_ALPHA, DEFAULT_BETA)
    for beta in BETAS:
        cache = torch.exp(-beta * (1 - cosines)) @ values
        for alpha in ALPHAS:
            logits = zero_shot + alpha * cache
            accuracy = float((logits.argmax(dim=1) == targets).double().mean())
            best = max(best, (accuracy, -float(F.cross_entropy(logits, targets)), alpha, beta))
    return TipAdapter(text_weight, logit_scale, embeddings, values, alpha=best[2], beta=best[3])
