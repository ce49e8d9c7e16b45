"""The contrastive loss, against open_clip_torch."""

from __future__ import annotations

from typing import Any

import cases_loss
from parity_compare import compare

import open_clip


def test_losses_and_gradients_are_the_published_ones(published_open_clip: Any) -> None:
    compare("loss and its gradients", cases_loss.observe(open_clip), published_open_clip["loss"], 1e-5)
