"""Rank the images of an index for a query, and describe those that are found.

Shapes: N embeddings of the index, Q parts of a query, K results, D joint embedding.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from oneclip.errors import DataError
from oneclip.search.catalogue import Catalogue, in_chunks, under_condition
from oneclip.search.image_facts import COLUMNS, ImageFacts
from oneclip.search.relevance import RelevanceModel, combine
from oneclip.search.results import Entry, Hit, SearchResults
from oneclip.search.snapshot import Snapshot
from oneclip.search.where import compile_sql

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from oneclip.encoder import Features
    from oneclip.search.query import Query
    from oneclip.search.scan import TopRows

_FILES = "FROM files AS f JOIN contents AS c ON c.id = f.content"
_ENTRY = f"f.root, f.path, f.size, f.mtime_ns, c.id, c.sha256, {', '.join(f'c.{name}' for name in COLUMNS)}"


class FileSelection:
    """Files of an index that a filter and a folder select.

    Args:
        catalogue: of the index.
        where: a filter, see `oneclip.search.where`; None for all files.
        under: a folder; None for all.

    Raises:
        ConfigError: for a filter that is not valid.
    """

    def __init__(
        self, catalogue: Catalogue, where: str | None = None, under: str | os.PathLike[str] | None = None
    ) -> None:
        self._catalogue = catalogue
        self.is_everything = where is None and under is None
        conditions, self._values = ["1"], []
        if where is not None:
            condition, values = compile_sql(where)
            conditions.append(f"({condition})")
            self._values += values
        if under is not None:
            condition, values = _under_roots(catalogue.roots(), os.path.realpath(under))
            conditions.append(f"({condition})")
            self._values += values
        self._condition = " AND ".join(conditions)

    def contents(self) -> NDArray[np.int64]:
        """Return the ids of the contents of all selected files."""
        found = self._catalogue.rows(f"SELECT DISTINCT c.id {_FILES} WHERE {self._condition}", self._values)
        return np.array(found, np.int64).reshape(-1)

    def entries(self, contents: Sequence[int] | None = None) -> list[Entry]:
        """Return the selected files, ordered by root and path; only those with these contents, if given."""
        order = "ORDER BY f.root, f.path"
        query = f"SELECT {_ENTRY} {_FILES} WHERE {self._condition}"
        if contents is None:
            rows = self._catalogue.rows(f"{query} {order}", self._values)
        else:
            rows = []
            for marks, values in in_chunks(contents):
                rows += self._catalogue.rows(
                    f"{query} AND c.id IN ({marks}) {order}", [*self._values, *values]
                )
        roots = {root: path for path, root in self._catalogue.roots().items()}
        return [
            Entry(
                os.path.join(roots[root], os.fsdecode(path)), size, time, content, sha256, ImageFacts(*facts)
            )
            for root, path, size, time, content, sha256, *facts in rows
        ]


def rank(
    snapshot: Snapshot,
    selection: FileSelection,
    queries: Sequence[Query],
    vectors: Features,
    relevance: RelevanceModel,
    results: SearchResults,
    *,
    top_k: int,
    sort: Literal["relevance", "date"],
    min_relevance: float | None,
    distinct: bool,
) -> SearchResults:
    """Find the files that fit all parts of a query best.

    Args:
        snapshot: of the index.
        selection: the files to search.
        queries: Q parts of the query.
        vectors: (Q, D) embeddings of the parts.
        relevance: converts cosines to probabilities.
        results: receives the hits and the counts.
        top_k: number of files, before those with a low relevance are left out.
        sort: order of the hits.
        min_relevance: least relevance of a hit.
        distinct: leave out files that look like a better one.

    Raises:
        DataError: if the index has no images.
    """
    if not snapshot.is_live.any():
        raise DataError(no_images_message(results.index))
    mask = snapshot.is_live if selection.is_everything else snapshot.mask_of(selection.contents())
    results.searched = int(mask.sum())
    if not results.searched:
        return results
    weights = np.array([query.weight for query in queries], np.float32)
    wanted = top_k
    while True:
        found = snapshot.scan.top(vectors, wanted, weights=weights, mask=None if mask.all() else mask)
        hits = _hits(snapshot, selection, found, _relevances(snapshot, queries, found, relevance))
        repeated = _repeated(snapshot, found, hits) if distinct else set()
        if len(hits) - len(repeated) >= top_k or len(found.rows) == results.searched:
            break
        wanted *= 4
    kept: list[Hit] = []
    for i, (_, hit) in enumerate(hits):
        if len(kept) + results.hidden == top_k:
            break
        if i in repeated:
            results.repeated += 1
        elif min_relevance is not None and (hit.relevance or 0.0) < min_relevance:
            results.hidden += 1
        else:
            kept.append(hit)
    if sort == "date":
        kept.sort(key=lambda hit: hit.taken_at or "", reverse=True)
    results.hits = kept
    return results


def no_images_message(index: object) -> str:
    """Return the message for an index without images."""
    return f"the index {index} has no images; add a folder of images: oneclip index ROOT"


def _relevances(
    snapshot: Snapshot, queries: Sequence[Query], found: TopRows, relevance: RelevanceModel
) -> list[float | None]:
    """Return the relevance of each found row for the texts of a query; None if it wants no text."""
    normalizers = snapshot.scan.log_normalizers(found.rows)

    def probabilities(sign: int) -> NDArray[np.float32] | None:
        texts = [i for i, query in enumerate(queries) if query.is_text and query.weight * sign > 0]
        if not texts:
            return None
        mean = snapshot.mean_log_normalizer
        return np.stack([relevance.probability(found.parts[i], normalizers, mean) for i in texts])

    wanted = probabilities(1)
    if wanted is None:
        return [None] * len(found.rows)
    return [float(value) for value in combine(wanted, probabilities(-1))]


def _hits(
    snapshot: Snapshot, selection: FileSelection, found: TopRows, relevances: Sequence[float | None]
) -> list[tuple[int, Hit]]:
    """Return the files of the found rows, best first, each with the position of its row."""
    contents = snapshot.contents[found.rows].tolist()
    by_content: dict[int, list[Entry]] = {}
    for entry in selection.entries(contents):
        by_content.setdefault(entry.content, []).append(entry)
    hits = []
    for place, (content, score, probability) in enumerate(
        zip(contents, found.scores.tolist(), relevances, strict=True)
    ):
        for entry in by_content.get(content, ()):  # none if it was removed since the snapshot
            facts = entry.facts
            hits.append(
                (
                    place,
                    Hit(
                        path=entry.path,
                        score=score,
                        relevance=probability,
                        width=facts.width,
                        height=facts.height,
                        format=facts.format,
                        taken_at=facts.taken_at,
                        camera=facts.camera,
                        latitude=facts.latitude,
                        longitude=facts.longitude,
                        sha256=entry.sha256,
                        perceptual_hash=facts.perceptual_hash,
                    ),
                )
            )
    return hits


def _repeated(snapshot: Snapshot, found: TopRows, hits: Sequence[tuple[int, Hit]]) -> set[int]:
    """Return the positions of hits that look like a better one."""
    from oneclip.search.duplicates import looks_alike

    vectors = snapshot.scan.vectors(found.rows)
    kept: list[tuple[int, Hit]] = []
    repeated = set()
    for i, (place, hit) in enumerate(hits):
        cosines = vectors[[other for other, _ in kept]] @ vectors[place]
        if any(
            better.sha256 == hit.sha256
            or looks_alike(float(cosine), better.perceptual_hash, hit.perceptual_hash)
            for cosine, (_, better) in zip(cosines, kept, strict=True)
        ):
            repeated.add(i)
        else:
            kept.append((place, hit))
    return repeated


def _under_roots(roots: dict[str, int], folder: str) -> tuple[str, list[Any]]:
    """Return a condition on `f`, and its values, for the files in a folder."""
    conditions, values = ["0"], list[Any]()
    for root, number in roots.items():
        if folder == root or root.startswith(folder.rstrip(os.sep) + os.sep):
            conditions.append("f.root = ?")
            values.append(number)
        elif folder.startswith(root.rstrip(os.sep) + os.sep):
            condition, bounds = under_condition(os.path.relpath(folder, root))
            conditions.append(f"(f.root = ? AND {condition})")
            values += [number, *bounds]
    return " OR ".join(conditions), values
