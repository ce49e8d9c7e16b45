"""Measure what a search through the index of a Lance dataset finds, and let it probe enough partitions.

An IVF index groups the vectors into partitions and searches those that are nearest to the query. Texts lie far from
all images, so that their nearest images are spread over more partitions than those of an image. How many partitions a
search must probe is therefore measured on the user's own data, with images and with texts, and stored in the dataset.

Shapes: N rows, Q queries, D joint embedding, K results.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from oneclip.errors import DataError
from oneclip.search.handover.lance_dataset import (
    PROBES,
    default_probes,
    lance_errors,
    nearest,
    open_lance,
    partitions_of,
    sample_rows,
    unit,
    vector_index,
    vectors_of,
)

if TYPE_CHECKING:
    from oneclip.encoder import Features

K = 10
MEASURED = 64  # queries
TARGET_RECALL = 0.99
_TOLERANCE = 1e-5  # of cosines that count as equal


def measure_recall(
    location: Any,
    queries: int | Features = MEASURED,
    *,
    probes: int | None = None,
    refine_factor: int | None = None,
    storage_options: Mapping[str, str] | None = None,
) -> float:
    """Measure which share of the 10 nearest images a search through the index finds (recall@10).

    Reads all vectors once.

    Args:
        location: path or address of a dataset, or an open one.
        queries: number of images of the dataset to search with, each without itself; or (Q, D) vectors.
        probes: partitions to read; by default as many as a search does.
        refine_factor: see `LanceSearch.search`.

    Returns:
        1.0 for a dataset without an index.

    Raises:
        DataError: if there is no such dataset, or it cannot be read.
    """
    dataset = location
    if isinstance(location, (str, Path)):
        dataset = open_lance(location, storage_options)
    if dataset is None:
        raise DataError(f"{location} is not a Lance dataset")
    if vector_index(dataset) is None or not dataset.count_rows():
        return 1.0
    with lance_errors(location if isinstance(location, (str, Path)) else dataset.uri, DataError, "searched"):
        truth = GroundTruth(dataset, queries)
        return truth.recall(dataset, probes or default_probes(dataset), refine_factor)


class GroundTruth:
    """Exact results of some queries, for measuring approximate ones.

    Args:
        dataset: to read, once.
        queries: number of its own images, each without itself; or (Q, D) vectors.
    """

    def __init__(self, dataset: Any, queries: int | Features) -> None:
        self._drop_first = isinstance(queries, int)
        if isinstance(queries, int):
            queries = vectors_of(sample_rows(dataset, queries, ["vector"]))
        self.queries = unit(queries)
        self._best = np.full((len(self.queries), K + self._drop_first), -np.inf, np.float32)
        for batch in dataset.to_batches(columns=["vector"]):
            cosines = self.queries @ unit(vectors_of(batch)).T
            joined = np.concatenate([self._best, cosines], axis=1)
            self._best = -np.partition(-joined, K - 1 + self._drop_first, axis=1)[:, : K + self._drop_first]

    def recall(self, dataset: Any, probes: int, refine_factor: int | None = None) -> float:
        """Return the share of the best K that a search finds. Images as near as the last of them count."""
        found = expected = 0
        for query, best in zip(self.queries, self._best, strict=True):
            best = -np.sort(-best)[self._drop_first :]
            best = best[np.isfinite(best)]
            table = nearest(
                dataset,
                query,
                K + self._drop_first,
                columns=["vector"],
                probes=probes,
                refine_factor=refine_factor,
            )
            cosines = -np.sort(-(unit(vectors_of(table)) @ query))[self._drop_first :]
            expected += len(best)
            found += min(len(best), int((cosines >= best[-1:] - _TOLERANCE).sum())) if len(best) else 0
        return found / expected if expected else 1.0


def calibrate_probes(dataset: Any, truths: Sequence[GroundTruth]) -> list[float]:
    """Find the least number of partitions that gives `TARGET_RECALL` for all queries, and store it in the dataset.

    Returns:
        The recall of each group of queries.
    """
    found = vector_index(dataset)
    assert found is not None
    partitions = partitions_of(dataset, found.name)
    probes = min(4, partitions)
    while True:
        recalls = [truth.recall(dataset, probes) for truth in truths]
        if min(recalls) >= TARGET_RECALL or probes == partitions:
            break
        probes = min(partitions, math.ceil(probes * 1.5))
    dataset.update_config({PROBES: str(probes)})
    return recalls
