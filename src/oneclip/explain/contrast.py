"""Contrast of each text with other texts: what makes a place similar to this text and not to any.

Shapes: T texts, G generic texts, P places, D joint embedding.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float32]


def contrast(places: Features, texts: Features, generic: Features | None) -> NDArray[np.float32]:
    """Compare places of an image with texts.

    Args:
        places: (P, D) of unit length.
        texts: (T, D) of unit length.
        generic: (G, D) of unit length, to contrast one text with; None to contrast each text with the others.

    Returns:
        (T, P): the cosine of the text, less the mean cosine of those that it is contrasted with.
    """
    own = texts @ places.T  # (T, P)
    if generic is not None:
        return np.asarray(own - generic.mean(axis=0) @ places.T, np.float32)
    count = len(texts)
    return np.asarray((own - own.mean(axis=0)) * (count / (count - 1)), np.float32)
