"""Relevance: the probability that an image shows a text, computed against generic texts.

A cosine means little by itself: some images are close to every text. The relevance of an image x for a text q is the
probability that q describes x better than all generic texts g do (a zero-shot classification of the image):

    softmax over q and the texts g   =   sigmoid(s q.x - log Z(x)),   log Z(x) = log sum exp(s g.x)

where s is the model's logit scale. log Z depends on the image only: it is computed once, when the image joins an index.
Half of the difference between an image's log Z and the mean over the index tells images that show a text from others
better than all of it (`benchmarks/relevance.py`):

    relevance = sigmoid(s q.x - (log Z(x) + mean log Z) / 2)

A model trained with a sigmoid loss has a probability of its own, sigmoid(s q.x + b), which needs no generic texts.

Shapes: N images, G generic texts, Q texts of a query, D joint embedding.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from oneclip.errors import DataError
from oneclip.hub.atomic import replace_file
from oneclip.text.generic_texts import generic_texts

FloatArray = NDArray[np.float32]
VERSION = 1  # of the file
SHARE = 0.5  # of an image's difference from the mean log Z that is used; see benchmarks/relevance.py
ROWS_PER_BLOCK = 4096


class TextEncoder(Protocol):
    """Interface that relevance needs of an `oneclip.Encoder`."""

    @property
    def logit_scale(self) -> float: ...

    @property
    def logit_bias(self) -> float | None: ...

    def encode_texts(self, texts: Sequence[str], /) -> FloatArray: ...


@dataclass(frozen=True)
class RelevanceModel:
    """Convert cosines of one model to probabilities.

    An index keeps the one that computed its normalizers, also when a later version has other generic texts.

    Attributes:
        scale: factor of cosines, the exponential of the model's logit scale.
        bias: logit bias of a model trained with a sigmoid loss, else None.
        texts: (G, D) float32 embeddings of the generic texts, of unit length; (0, 0) for a model with a bias.
        digest: SHA-256 of the generic texts.
    """

    scale: float
    bias: float | None
    texts: FloatArray
    digest: str

    @classmethod
    def from_encoder(cls, encoder: TextEncoder) -> RelevanceModel:
        """Encode the generic texts with a model, unless it has a logit bias."""
        texts = np.empty((0, 0), np.float32)
        if encoder.logit_bias is None:
            texts = np.asarray(encoder.encode_texts(generic_texts()), np.float32)
        return cls(encoder.logit_scale, encoder.logit_bias, texts, _digest())

    @property
    def has_current_texts(self) -> bool:
        """True if the generic texts are those of this version."""
        return self.bias is not None or self.digest == _digest()

    def log_normalizers(self, vectors: FloatArray) -> FloatArray:
        """Compute log Z of images.

        Args:
            vectors: (N, D) float32 embeddings of images, of unit length.

        Returns:
            (N,) float32; zeros for a model with a bias.
        """
        result = np.zeros(len(vectors), np.float32)
        if self.bias is not None:
            return result
        for start in range(0, len(vectors), ROWS_PER_BLOCK):
            block = slice(start, start + ROWS_PER_BLOCK)
            logits = self.scale * (vectors[block] @ self.texts.T)  # (B, G)
            greatest = logits.max(axis=1)
            result[block] = greatest + np.log(np.exp(logits - greatest[:, None]).sum(axis=1))
        return result

    def probability(
        self, cosines: FloatArray, log_normalizers: FloatArray, mean_log_normalizer: float | None = None
    ) -> FloatArray:
        """Return the probability that images show a text.

        Args:
            cosines: (N,) float32 of the images with the text.
            log_normalizers: (N,) float32 of the images, see `log_normalizers`; ignored for a model with a bias.
            mean_log_normalizer: mean over all images of the index; None uses log Z of each image as it is.

        Returns:
            (N,) float32 between 0 and 1.
        """
        if self.bias is not None:
            return _sigmoid(self.scale * cosines + self.bias)
        if mean_log_normalizer is not None:
            log_normalizers = SHARE * log_normalizers + (1 - SHARE) * mean_log_normalizer
        return _sigmoid(self.scale * cosines - log_normalizers)

    def save(self, path: Path) -> None:
        """Write the model as an .npz file.

        Raises:
            OutputError: if it cannot be written.
        """
        bias = np.nan if self.bias is None else self.bias
        with replace_file(path) as temporary, temporary.open("wb") as file:
            np.savez(file, version=VERSION, scale=self.scale, bias=bias, texts=self.texts, digest=self.digest)

    @classmethod
    def load(cls, path: Path) -> RelevanceModel:
        """Read what `save` wrote.

        Raises:
            DataError: if the file is missing, damaged or of a newer version.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                version, bias = int(arrays["version"]), float(arrays["bias"])
                found = cls(
                    float(arrays["scale"]),
                    None if np.isnan(bias) else bias,
                    arrays["texts"].astype(np.float32),
                    str(arrays["digest"]),
                )
        except (OSError, EOFError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{path} cannot be read ({error or type(error).__name__}); search needs it: "
                "make the index again with `oneclip index ROOT --rebuild`"
            ) from error
        if version > VERSION:
            raise DataError(
                f"{path} has version {version}, this oneclip reads up to {VERSION}; install a newer oneclip"
            )
        return found


def combine(wanted: FloatArray, unwanted: FloatArray | None = None) -> FloatArray:
    """Combine the probabilities of the texts of a query: an image is as relevant as its least certain part.

    The product would assume that the parts are independent; those of one query rarely are ("beach", "sea").

    Args:
        wanted: (Q, N) float32 probabilities of the texts that images should show, Q >= 1.
        unwanted: (R, N) float32 probabilities of the texts that they should not show.

    Returns:
        (N,) float32: the minimum of `wanted` and of 1 - `unwanted`.
    """
    parts = wanted if unwanted is None else np.concatenate([wanted, 1 - unwanted])
    return np.asarray(parts.min(axis=0), np.float32)


def _digest() -> str:
    return hashlib.sha256("\n".join(generic_texts()).encode()).hexdigest()


def _sigmoid(logits: FloatArray) -> FloatArray:
    """Compute the sigmoid without overflow."""
    return np.asarray(np.exp(-np.logaddexp(0, -logits)), np.float32)
