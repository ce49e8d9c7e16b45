"""Searches of a served index: rankings are kept, so that a further page costs neither an encoding nor a scan.

Shapes: Q parts of a query, D joint embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from oneclip.search.full_ranking import EXACT, FullRanking
from oneclip.search.query import Query
from oneclip.search.ranking import FileSelection, SelectedFiles
from oneclip.search.results import SearchResults
from oneclip.search.snapshot import MAX_ATTEMPTS, Snapshot
from oneclip.serve.recent_cache import RecentCache

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from oneclip.encoder import Features
    from oneclip.search.index import Index

CACHE_BYTES = 128 * 2**20  # of rankings, and as much of the numbers of files that filters select
BYTES_PER_FILE = 32
FACET_VALUES = 500  # of each facet, the most frequent ones


@dataclass(frozen=True)
class SearchPage:
    """What a request wants to see.

    Attributes:
        where: a filter, or None.
        top: number of results.
        offset: number of results before them; None for the results of `oneclip search`, which takes them from the best
            `top` images only, before it leaves out those of low relevance and sorts.
        sort: "relevance", or "date" for the newest first.
        min_relevance: least relevance of a result.
        distinct: leave out results that look like a better one.
    """

    where: str | None = None
    top: int = 20
    offset: int | None = None
    sort: Literal["relevance", "date"] = "relevance"
    min_relevance: float | None = None
    distinct: bool = False


class IndexSearch:
    """Search of an index. Thread-safe.

    Args:
        index: to search.
        under: folder to search; None for all.
    """

    def __init__(self, index: Index, under: str | None) -> None:
        self._index, self._under = index, under
        self._opening = Lock()
        self._selected: RecentCache[SelectedFiles] = RecentCache(
            CACHE_BYTES, lambda files: BYTES_PER_FILE * len(files.ids)
        )
        self._rankings: RecentCache[FullRanking] = RecentCache(
            CACHE_BYTES, lambda ranking: BYTES_PER_FILE * len(ranking.files)
        )
        self._repeated: RecentCache[NDArray[np.bool_]] = RecentCache(CACHE_BYTES, len)
        self._descriptions: RecentCache[dict[str, Any]] = RecentCache(1)

    def selection(self, where: str | None = None) -> FileSelection:
        """Return the files that can be searched.

        Raises:
            QueryError: for a filter that is not valid.
        """
        return FileSelection(self._index.catalogue, where, self._under)

    def prepare(self) -> None:
        """Read what the first search after a change of the index would have to wait for."""
        snapshot = self._snapshot()
        if snapshot.is_live.any():
            self._files(snapshot, self.selection(), None)
            _ = snapshot.mean_log_normalizer
        self.describe()

    def stored_vector(self, sha256: str) -> Features | None:
        """Return the embedding (D,) of an indexed image, or None."""
        found = self._index.catalogue.content_of(sha256)
        if found is None or not self.selection().entries([found[0]]):
            return None
        snapshot = self._snapshot()
        rows = snapshot.rows_of(np.array([found[0]], np.int64))
        return snapshot.scan.vectors(rows)[0] if len(rows) else None

    def search(self, queries: Sequence[Query], vectors: Features, page: SearchPage) -> dict[str, Any]:
        """Search, or without a query list all images, the newest first.

        Args:
            queries: Q parts of the query; the value of an image is what tells it from others, such as its digest.
            vectors: (Q, D) their embeddings.
            page: what to return.

        Returns:
            What `oneclip search --json` prints, with "total", the number of results on all pages, and on the first page
            "histogram", the number of searched files by relevance.

        Raises:
            QueryError: for a filter that is not valid.
        """
        selection = self.selection(page.where)
        for _ in range(MAX_ATTEMPTS):
            snapshot = self._snapshot()
            answer = self._search(snapshot, selection, queries, vectors, page)
            # else the embeddings and the files may be of two states
            if self._index.catalogue.generation() == snapshot.generation:
                break
        return answer

    def _search(
        self,
        snapshot: Snapshot,
        selection: FileSelection,
        queries: Sequence[Query],
        vectors: Features,
        page: SearchPage,
    ) -> dict[str, Any]:
        exact = EXACT if page.top <= EXACT else len(snapshot.contents)
        parts = tuple((query.value, query.is_text, query.weight) for query in queries)
        key = (snapshot.generation, page.where, parts, exact)
        ranking = self._rankings.find(
            key, lambda: self._rank(snapshot, selection, queries, vectors, page.where, exact)
        )
        repeated = None
        if page.distinct:
            repeated = self._repeated.find(
                key, lambda: ranking.find_repeated(snapshot, self._index.catalogue)
            )
        results = ranking.results(
            page.top if page.offset is None else len(ranking.files),
            sort=page.sort,
            min_relevance=page.min_relevance,
            repeated=repeated,
        )
        first = page.offset or 0
        found = SearchResults(
            [],
            str(self._index.path),
            self._index.model_name,
            results.hidden,
            results.repeated,
            ranking.searched,
        )
        places = results.places[first : first + page.top]
        entries = selection.entries_of(ranking.files[places].tolist())
        for place in places.tolist():
            entry = entries.get(int(ranking.files[place]))
            if entry is not None:  # else it was removed since the snapshot
                score = 0.0 if ranking.scores is None else float(ranking.scores[place])
                relevance = None if ranking.relevances is None else float(ranking.relevances[place])
                found.hits.append(entry.hit(score, relevance))
        answer = found.to_dict() | {"total": len(results.places)}
        if ranking.scores is None:
            answer["results"] = [hit | {"score": None} for hit in answer["results"]]
        if not first and ranking.relevances is not None:
            edges, counts = ranking.relevance_histogram()
            answer["histogram"] = {"edges": edges, "counts": counts}
        return answer

    def _rank(
        self,
        snapshot: Snapshot,
        selection: FileSelection,
        queries: Sequence[Query],
        vectors: Features,
        where: str | None,
        exact: int,
    ) -> FullRanking:
        selected = self._files(snapshot, selection, where)
        if not queries or not snapshot.is_live.any():
            return FullRanking.by_date(snapshot, selected)
        return FullRanking.of_query(snapshot, selected, queries, vectors, self._index.relevance, exact)

    def _files(self, snapshot: Snapshot, selection: FileSelection, where: str | None) -> SelectedFiles:
        return self._selected.find((snapshot.generation, where), selection.files)

    def describe(self) -> dict[str, Any]:
        """Return the number of images, and the values of their facts that a filter may use."""
        generation = self._index.catalogue.generation()
        if (known := self._descriptions.get(generation)) is None:
            known = self._describe()
            self._descriptions.put(generation, known)
        return known

    def _describe(self) -> dict[str, Any]:
        selection = self.selection()
        images, first, last = selection.summary()
        facets: dict[str, Any] = {"taken_at": {"first": first, "last": last}}
        for name, column in (("folders", "folder"), ("cameras", "camera"), ("formats", "format")):
            found = selection.values(column, FACET_VALUES)
            facets[name] = [{"value": value, "count": count} for value, count in found]
        return {"images": images, "facets": facets}

    def _snapshot(self) -> Snapshot:
        with self._opening:  # once, however many requests wait for it
            return self._index.snapshot()
