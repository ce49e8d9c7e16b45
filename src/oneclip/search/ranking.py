"""Rank the images of an index for a query, and describe those that are found.

Shapes: N embeddings of the index, Q parts of a query, K results, D joint embedding.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from oneclip.errors import ConfigError, DataError
from oneclip.search.catalogue import Catalogue, in_chunks, under_condition
from oneclip.search.image_facts import COLUMNS, ImageFacts
from oneclip.search.places import real_root
from oneclip.search.relevance import RelevanceModel, combine
from oneclip.search.results import Entry, Hit, SearchResults
from oneclip.search.snapshot import Snapshot
from oneclip.search.where import SQL_COLUMNS, compile_sql

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from oneclip.encoder import Features
    from oneclip.search.query import Query
    from oneclip.search.scan import TopRows

_FILES = "FROM files AS f JOIN contents AS c ON c.id = f.content"
_ENTRY = f"f.root, f.path, f.size, f.mtime_ns, c.id, c.sha256, {', '.join(f'c.{name}' for name in COLUMNS)}"


class SelectedFiles(NamedTuple):
    """Numbers of the files that a filter selects.

    Attributes:
        ids: (F,) int64 of the files in the catalogue.
        contents: (F,) int64 id of the content of each.
        times: (F,) int64 modification times in nanoseconds; 0 if unknown.
        dates: (F,) int64 ranks of the dates of the photographs, the oldest first; unknown dates before all others.
    """

    ids: NDArray[np.int64]
    contents: NDArray[np.int64]
    times: NDArray[np.int64]
    dates: NDArray[np.int64]


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
            if not isinstance(where, str):
                raise ConfigError(f"where is {where!r}; expected a filter such as 'taken_at >= 2023'")
            condition, values = compile_sql(where)
            conditions.append(f"({condition})")
            self._values += values
        if under is not None:
            condition, values = _under_roots(catalogue.roots(), real_root(under))
            conditions.append(f"({condition})")
            self._values += values
        self._condition = " AND ".join(conditions)

    def summary(self) -> tuple[int, str | None, str | None]:
        """Return the number of selected files, and their earliest and latest dates."""
        query = f"SELECT count(*), min(c.taken_at), max(c.taken_at) {_FILES} WHERE {self._condition}"
        ((count, first, last),) = self._catalogue.rows(query, self._values)
        return count, first, last

    def values(self, column: str, limit: int) -> list[tuple[Any, int]]:
        """Return the most frequent values of a column of filters, each with the number of selected files."""
        query = f"SELECT {SQL_COLUMNS[column]} AS value, count(*) {_FILES} WHERE {self._condition}"
        order = "GROUP BY value ORDER BY count(*) DESC, value LIMIT ?"
        return self._catalogue.rows(f"{query} {order}", [*self._values, limit])

    def contents(self) -> NDArray[np.int64]:
        """Return the ids of the contents of all selected files."""
        found = self._catalogue.rows(f"SELECT DISTINCT c.id {_FILES} WHERE {self._condition}", self._values)
        return np.array(found, np.int64).reshape(-1)

    def files(self) -> SelectedFiles:
        """Return the numbers of the selected files, ordered by root and path."""
        query = f"SELECT f.id, c.id, f.mtime_ns, c.taken_at {_FILES} WHERE {self._condition}"
        rows = self._catalogue.rows(f"{query} ORDER BY f.root, f.path", self._values)
        ids, contents, times, dates = zip(*rows, strict=True) if rows else ((), (), (), ())
        return SelectedFiles(
            np.array(ids, np.int64),
            np.array(contents, np.int64),
            np.array([time or 0 for time in times], np.int64),
            np.unique([date or "" for date in dates], return_inverse=True)[1].astype(np.int64),
        )

    def entries(self, contents: Sequence[int] | None = None) -> list[Entry]:
        """Return the selected files, ordered by root and path; only those with these contents, if given."""
        query, order = f"SELECT {_ENTRY} {_FILES} WHERE {self._condition}", "ORDER BY f.root, f.path"
        if contents is None:
            rows = self._catalogue.rows(f"{query} {order}", self._values)
        else:
            rows = []
            for marks, values in in_chunks(contents):
                rows += self._catalogue.rows(
                    f"{query} AND c.id IN ({marks}) {order}", [*self._values, *values]
                )
        return self._described(rows)

    def entries_of(self, files: Sequence[int]) -> dict[int, Entry]:
        """Return files by their ids in the catalogue; those that no longer exist are left out."""
        found: dict[int, Entry] = {}
        for marks, values in in_chunks(files):
            rows = self._catalogue.rows(f"SELECT f.id, {_ENTRY} {_FILES} WHERE f.id IN ({marks})", values)
            found.update(
                zip([row[0] for row in rows], self._described([row[1:] for row in rows]), strict=True)
            )
        return found

    def _described(self, rows: Sequence[Any]) -> list[Entry]:
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
        relevances = text_relevances(
            queries,
            found.parts,
            snapshot.scan.log_normalizers(found.rows),
            relevance,
            snapshot.mean_log_normalizer,
        )
        hits, places = _hits(snapshot, selection, found, relevances)
        repeated = find_repeated(hits, snapshot.scan.vectors(found.rows)[places]) if distinct else set()
        if len(hits) - len(repeated) >= top_k or len(found.rows) == results.searched:
            break
        wanted *= 4
    keep_hits(results, hits, repeated, top_k, sort, min_relevance)
    return results


def keep_hits(
    results: SearchResults,
    hits: Sequence[Hit],
    repeated: set[int],
    top_k: int,
    sort: str,
    min_relevance: float | None,
) -> None:
    """Put the best hits into the results, and count those that are left out.

    Args:
        results: receives the hits.
        hits: best first.
        repeated: places of hits that look like a better one.
        top_k: number of hits, before those with a low relevance are left out.
        sort: "relevance", or "date" for the newest first.
        min_relevance: least relevance of a hit.
    """
    for i, hit in enumerate(hits):
        if len(results.hits) + results.hidden == top_k:
            break
        if i in repeated:
            results.repeated += 1
        elif min_relevance is not None and (hit.relevance or 0.0) < min_relevance:
            results.hidden += 1
        else:
            results.hits.append(hit)
    if sort == "date":
        results.hits.sort(key=lambda hit: hit.taken_at or "", reverse=True)


def text_relevances(
    queries: Sequence[Query],
    cosines: NDArray[np.float32],
    log_normalizers: NDArray[np.float32],
    relevance: RelevanceModel,
    mean_log_normalizer: float | None,
) -> list[float | None]:
    """Return the relevance of each result for the texts of a query; None if it wants no text.

    Args:
        queries: Q parts of the query.
        cosines: (Q, K) of the parts with the results.
        log_normalizers: (K,) of the results.
        relevance: of the model.
        mean_log_normalizer: over the collection.
    """

    found = relevance_values(queries, cosines, log_normalizers, relevance, mean_log_normalizer)
    return [None] * cosines.shape[1] if found is None else found.tolist()


def relevance_values(
    queries: Sequence[Query],
    cosines: NDArray[np.float32],
    log_normalizers: NDArray[np.float32],
    relevance: RelevanceModel,
    mean_log_normalizer: float | None,
) -> NDArray[np.float32] | None:
    """Return the relevances (K,) of results; None if the query wants no text. Arguments as of `text_relevances`."""

    def probabilities(sign: int) -> NDArray[np.float32] | None:
        texts = [i for i, query in enumerate(queries) if query.is_text and query.weight * sign > 0]
        found = [relevance.probability(cosines[i], log_normalizers, mean_log_normalizer) for i in texts]
        return np.stack(found) if found else None

    wanted = probabilities(1)
    return None if wanted is None else combine(wanted, probabilities(-1))


def find_repeated(hits: Sequence[Hit], vectors: Features) -> set[int]:
    """Return the places of hits that look like a better one; without a perceptual hash, only equal files do.

    Args:
        hits: H hits, best first.
        vectors: (H, D) their embeddings.
    """
    from oneclip.search.duplicates import looks_alike

    kept: list[int] = []
    repeated = set()
    for i, hit in enumerate(hits):
        cosines = (vectors[kept] @ vectors[i]).tolist()
        if any(
            hits[j].sha256 == hit.sha256
            or (hit.width and looks_alike(cosine, hits[j].perceptual_hash, hit.perceptual_hash))
            for j, cosine in zip(kept, cosines, strict=True)
        ):
            repeated.add(i)
        else:
            kept.append(i)
    return repeated


def no_images_message(index: object) -> str:
    """Return the message for an index without images."""
    return f"the index {index} has no images; add a folder of images: oneclip index ROOT"


def _hits(
    snapshot: Snapshot, selection: FileSelection, found: TopRows, relevances: Sequence[float | None]
) -> tuple[list[Hit], list[int]]:
    """Return the files of the found rows, best first, and the place of the row of each."""
    contents = snapshot.contents[found.rows].tolist()
    by_content: dict[int, list[Entry]] = {}
    for entry in selection.entries(contents):
        by_content.setdefault(entry.content, []).append(entry)
    hits, places = [], []
    for place, (content, score, relevance) in enumerate(
        zip(contents, found.scores.tolist(), relevances, strict=True)
    ):
        for entry in by_content.get(content, ()):  # none if it was removed since the snapshot
            hits.append(entry.hit(score, relevance))
            places.append(place)
    return hits, places


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
