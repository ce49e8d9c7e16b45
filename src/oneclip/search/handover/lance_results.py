"""Rows that a search of a Lance dataset found, as hits.

Shapes: Q parts of a query, K rows, D joint embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from oneclip.search.handover.lance_dataset import unit, vectors_of
from oneclip.search.results import Hit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from oneclip.encoder import Features

FACTS = ("width", "height", "format", "taken_at", "camera", "latitude", "longitude", "perceptual_hash")


class FoundRows:
    """Rows that a search found, best first.

    Args:
        table: of Lance.
        queries: (Q, D) embeddings.
        factors, constants: (Q,), see `LanceSearch._standardization`.
    """

    def __init__(
        self, table: Any, queries: Features, factors: NDArray[np.float32], constants: NDArray[np.float32]
    ) -> None:
        vectors = unit(vectors_of(table))
        cosines = queries @ vectors.T
        scores = factors @ (cosines - constants[:, None])
        names = np.array(table["name"].to_pylist(), object)
        order = np.lexsort((names.astype(str), -scores)) if len(names) else np.empty(0, np.int64)
        self._table = table.take(order)
        self.names: list[str] = names[order].tolist()
        self.vectors, self.cosines, self.scores = vectors[order], cosines[:, order], scores[order]
        self.log_normalizers = log_normalizers_of(self._table)

    def hits(self, relevances: Sequence[float | None]) -> list[Hit]:
        known = set(self._table.schema.names)
        rows = self._table.select(["sha256", *(name for name in FACTS if name in known)]).to_pylist()
        return [
            Hit(
                path=name,
                score=score,
                relevance=relevance,
                width=row.get("width") or 0,
                height=row.get("height") or 0,
                format=row.get("format") or "",
                taken_at=row.get("taken_at"),
                camera=row.get("camera"),
                latitude=row.get("latitude"),
                longitude=row.get("longitude"),
                sha256=row["sha256"],
                perceptual_hash=row.get("perceptual_hash") or 0,
            )
            for name, row, score, relevance in zip(
                self.names, rows, self.scores.tolist(), relevances, strict=True
            )
        ]


def log_normalizers_of(table: Any) -> NDArray[np.float32]:
    """Return the log normalizers of the rows of a table: (N,) float32, NaN if unknown."""
    if "log_normalizer" not in table.schema.names:
        return np.full(len(table), np.nan, np.float32)
    values = table["log_normalizer"].to_numpy(zero_copy_only=False)
    return np.asarray(values, np.float32)
