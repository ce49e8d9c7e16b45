"""Contrast of each text with other texts: what makes a place similar to this text and not to any.

Shapes: T texts, G generic texts, P places, D joint embedding.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np

from oneclip.engine import InferenceModel
from oneclip.engine.staleness import ModuleFingerprint
from oneclip.explain.protocol import ExplainedEncoder, Features
from oneclip.text import Tokenizer
from oneclip.text.generic_texts import generic_texts

# for each model: its state and the tokenizer that the embeddings of the generic texts were made with, and these
_GENERIC: WeakKeyDictionary[InferenceModel, tuple[ModuleFingerprint, Tokenizer, Features]] = (
    WeakKeyDictionary()
)
SAME = 0.95  # generic texts with at least this cosine mean the same as the text


def contrast(places: Features, texts: Features, generic: Features, scale: float) -> Features:
    """Compare places of an image with texts.

    Args:
        places: (P, D) of unit length.
        texts: (T, D) of unit length.
        generic: (G, D) of unit length, to contrast one text with; not used for several.
        scale: of the model, factor of cosines.

    Returns:
        (T, P): the cosine of the text, less a soft maximum of the cosines of those it is contrasted with,
        log(mean(exp(scale * cosine))) / scale: at least their mean, at most the largest.
    """
    own = texts @ places.T
    if len(texts) == 1:
        others = others_of(texts[0], generic) @ places.T
        return np.asarray(own - _soft_maximum(others, scale), np.float32)
    rows = [row - _soft_maximum(np.delete(own, index, axis=0), scale) for index, row in enumerate(own)]
    return np.asarray(rows, np.float32)


def contrast_directions(texts: Features, generic: Features) -> Features:
    """Return what places are multiplied with where only a linear contrast is possible, (T, D).

    A direction is the text, less the mean of those that it is contrasted with.
    """
    if len(texts) == 1:
        return np.asarray(texts - others_of(texts[0], generic).mean(axis=0), np.float32)
    return np.asarray((texts - texts.mean(axis=0)) * (len(texts) / (len(texts) - 1)), np.float32)


def encode_generic_texts(encoder: ExplainedEncoder) -> Features:
    """Return the embeddings (G, D) of the generic texts, which are kept until the model changes."""
    found = _GENERIC.get(encoder.inference)
    if found is not None and found[0].is_current() and found[1] is encoder.tokenizer:
        return found[2]
    fingerprint = ModuleFingerprint([encoder.model])
    features = encoder.encode_texts(generic_texts())
    _GENERIC[encoder.inference] = fingerprint, encoder.tokenizer, features
    return features


def others_of(text: Features, generic: Features) -> Features:
    """Return the generic texts (G, D) that mean something else than a text (D,); all if none does."""
    other = generic[generic @ text < SAME]
    return other if len(other) else generic


def _soft_maximum(cosines: Features, scale: float) -> Features:
    """Compute log(mean(exp(scale * cosine))) / scale over the texts, (T, P) -> (P,)."""
    largest = cosines.max(axis=0)
    return np.asarray(largest + np.log(np.exp(scale * (cosines - largest)).mean(axis=0)) / scale)
