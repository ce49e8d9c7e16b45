"""Data sets of given embeddings, for tests of metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from oneclip.embed.items import Failure, Item
from oneclip.evaluate.data import EvaluationDataset, Kind, Sample
from oneclip.evaluate.encoded import EncodedSplit, TextEncoder


def unit(rows: Any) -> Any:
    """Scale rows (N, D) to unit length."""
    array = np.asarray(rows, dtype=np.float32)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def random_unit(count: int, dim: int = 8, seed: int = 0) -> Any:
    """Return random rows (count, dim) of unit length."""
    return unit(np.random.default_rng(seed).normal(size=(count, dim)))


def text_encoder(vectors: Mapping[str, Any], scale: float = 10.0, bias: float | None = None) -> TextEncoder:
    """Make a text side that knows the embeddings of some texts."""
    return TextEncoder(lambda texts: np.stack([vectors[text] for text in texts]), scale, bias)


def split_of(embeddings: Any, skipped: Sequence[Failure] = (), **columns: Sequence[Any]) -> EncodedSplit:
    """Make a split; each column has an attribute of `Sample` for every image."""
    samples = [
        Sample(Item(f"{row}.png", bytes), **{name: values[row] for name, values in columns.items()})
        for row in range(len(embeddings))
    ]
    return EncodedSplit(embeddings, samples, skipped)


def dataset_of(split: EncodedSplit, kind: Kind = "classes", classes: Sequence[str] = ()) -> EvaluationDataset:
    """Make a data set with one split."""
    return EvaluationDataset("generated", kind, {"test": split.samples}, list(classes))
