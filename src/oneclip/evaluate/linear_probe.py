"""Linear probe: a classifier of one's own on image embeddings."""

from __future__ import annotations


class LinearProbe:
    """Multinomial logistic regression on image embeddings."""
