"""All files of an index in the order of a query, so that results can be counted, cut, sorted by date and paged.

`oneclip.search.ranking` finds the best few; this orders all, which takes a few times as long, and is kept for the pages
that follow.

Shapes: F selected files, N embeddings of the index, Q parts of a query, K results, D joint embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from oneclip.search.catalogue import Catalogue, in_chunks
from oneclip.search.near_groups import find_leaders
from oneclip.search.ranking import SelectedFiles, relevance_values
from oneclip.search.relevance import RelevanceModel
from oneclip.search.scan import TopRows, VectorScan
from oneclip.search.snapshot import Snapshot

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from oneclip.encoder import Features
    from oneclip.search.query import Query

EXACT = 1_000  # embeddings whose scores are exact; those after them are as accurate as their int8 codes
COMPARED = 10_000  # contents that `distinct` compares; of those after them, only equal files are left out
BINS, LOGIT = 100, 7.0  # of histograms of relevance; the first and the last bin are beyond these logits


def order_rows(
    scan: VectorScan,
    queries: NDArray[np.float32],
    exact: int,
    *,
    weights: NDArray[np.float32],
    mask: NDArray[np.bool_],
) -> TopRows:
    """Order rows by score: the best as `VectorScan.top` does, the others as accurately as their int8 codes.

    Args:
        scan: of N rows.
        queries: (Q, D) float32 of unit length.
        exact: number of the best rows.
        weights: (Q,), see `VectorScan.top`.
        mask: (N,) the rows that count.
    """
    best = scan.top(queries, exact, weights=weights, mask=None if mask.all() else mask)
    is_left = mask.copy()
    is_left[best.rows] = False
    rows = np.flatnonzero(is_left)
    if not len(rows):
        return best
    factors, constants = scan.standardize(queries, weights)
    parts = scan.scores(queries)[:, rows]
    scores = (factors @ (parts - constants[:, None])).astype(np.float32)
    order = np.argsort(-scores, kind="stable")
    return TopRows(
        np.concatenate([best.rows, rows[order]]),
        np.concatenate([best.scores, np.minimum(scores[order], best.scores[-1])]),
        np.concatenate([best.parts, parts[:, order]], axis=1),
    )


@dataclass(frozen=True)
class Results:
    """Files that a search returns, of a ranking.

    Attributes:
        places: (K,) int64 of the files in the ranking, in the order of the results.
        hidden: number of files that were left out because their relevance is too low.
        repeated: number of files that were left out because they look like a better one.
    """

    places: NDArray[np.int64]
    hidden: int
    repeated: int


@dataclass(frozen=True)
class FullRanking:
    """All selected files, best first.

    Attributes:
        files: (F,) int64 ids of the files.
        rows: (F,) int64 rows of their embeddings in the snapshot.
        dates: (F,) int64 ranks of their dates, the oldest first.
        scores: (F,) float32; None without a query: then the newest come first.
        relevances: (F,) float32; None for a query without texts.
        searched: number of different images among them.
    """

    files: NDArray[np.int64]
    rows: NDArray[np.int64]
    dates: NDArray[np.int64]
    scores: NDArray[np.float32] | None
    relevances: NDArray[np.float32] | None
    searched: int

    @classmethod
    def of_query(
        cls,
        snapshot: Snapshot,
        selected: SelectedFiles,
        queries: Sequence[Query],
        vectors: Features,
        relevance: RelevanceModel,
        exact: int = EXACT,
    ) -> FullRanking:
        """Order files by how well they fit all parts of a query.

        Args:
            snapshot: of the index.
            selected: the files to search.
            queries: Q parts of the query.
            vectors: (Q, D) embeddings of the parts.
            relevance: converts cosines to probabilities.
            exact: number of embeddings with exact scores.
        """
        rows = snapshot.row_of_each(selected.contents)
        mask = np.zeros(len(snapshot.contents), np.bool_)
        mask[rows[rows >= 0]] = True
        weights = np.array([query.weight for query in queries], np.float32)
        ordered = order_rows(snapshot.scan, vectors, exact, weights=weights, mask=mask)
        relevances = relevance_values(
            queries,
            ordered.parts,
            snapshot.scan.log_normalizers(ordered.rows),
            relevance,
            snapshot.mean_log_normalizer,
        )
        rank_of_row = np.full(len(mask), len(mask), np.int64)
        rank_of_row[ordered.rows] = np.arange(len(ordered.rows))
        ranks = np.where(rows >= 0, rank_of_row[rows], -1)
        order = np.argsort(ranks, kind="stable")[np.count_nonzero(ranks < 0) :]
        ranks = ranks[order]
        return cls(
            selected.ids[order],
            rows[order],
            selected.dates[order],
            ordered.scores[ranks],
            None if relevances is None else relevances[ranks],
            len(ordered.rows),
        )

    @classmethod
    def by_date(cls, snapshot: Snapshot, selected: SelectedFiles) -> FullRanking:
        """Order files by the date of the photograph, the newest first; those without one by the time of the file."""
        rows = snapshot.row_of_each(selected.contents)
        order = np.lexsort((-selected.times, -selected.dates))
        order = order[rows[order] >= 0]
        return cls(
            selected.ids[order],
            rows[order],
            selected.dates[order],
            None,
            None,
            len(np.unique(rows[order])),
        )

    def results(
        self,
        among: int,
        *,
        sort: Literal["relevance", "date"] = "relevance",
        min_relevance: float | None = None,
        repeated: NDArray[np.bool_] | None = None,
    ) -> Results:
        """Choose results as `oneclip.search.ranking.keep_hits` does.

        Args:
            among: number of the best files to choose from, without those that look like a better one.
            sort: "relevance", or "date" for the newest first.
            min_relevance: least relevance of a result.
            repeated: (F,) files that look like a better one, see `find_repeated`; None to keep all.
        """
        places, left_out = np.arange(len(self.files)), 0
        if repeated is not None:
            places = np.flatnonzero(~repeated)
            end = len(repeated) if len(places) < among else places[among - 1]
            left_out = int(np.count_nonzero(repeated[:end]))
        kept = places = places[:among]
        if min_relevance is not None and self.relevances is not None:
            kept = places[self.relevances[places] >= min_relevance]
        if sort == "date":
            kept = kept[np.argsort(-self.dates[kept], kind="stable")]
        return Results(kept, len(places) - len(kept), left_out)

    def find_repeated(self, snapshot: Snapshot, catalogue: Catalogue) -> NDArray[np.bool_]:
        """Return which files look like a better one, as `oneclip.search.ranking.find_repeated` does: (F,)."""
        repeated = np.ones(len(self.files), np.bool_)
        _, first = np.unique(self.rows, return_index=True)
        repeated[first] = False
        places = np.sort(first)[:COMPARED]
        rows = self.rows[places]
        contents = snapshot.contents[rows].tolist()
        hashes: dict[int, int] = {}
        for marks, values in in_chunks(contents):
            hashes.update(
                catalogue.rows(f"SELECT id, perceptual_hash FROM contents WHERE id IN ({marks})", values)
            )
        leaders = find_leaders(
            np.array([hashes.get(content, 0) for content in contents], np.int64),
            lambda numbers: snapshot.scan.vectors(rows[numbers]),
        )
        repeated[places[leaders.numbers != np.arange(len(places))]] = True
        return repeated

    def relevance_histogram(self) -> tuple[list[float], list[int]]:
        """Return the edges of `BINS` ranges of relevance, equal steps of its logit, and the number of files in each."""
        logits = np.linspace(-LOGIT, LOGIT, BINS - 1)
        edges = np.concatenate([[0.0], 1 / (1 + np.exp(-logits)), [1.0]])
        relevances = np.empty(0) if self.relevances is None else self.relevances
        return edges.tolist(), np.histogram(relevances, edges)[0].tolist()
