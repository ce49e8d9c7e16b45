"""Exact search of segments: an int8 scan of all rows, then exact products of those that may be among the best.

The scan reads the dimensions of greatest variance first, and stops as soon as few rows can still be among the best.
What unread dimensions add to the products of a query has the variance `sum(query ** 2 * variances)` over these
dimensions, which is known in advance; a margin of some standard deviations of all that the scan neglects decides.
It then reads the other dimensions of the rows that are left, in steps, and at last their residuals, for the exact
products of the last few. Threads take turns of rows, not of operations: they wait for each other once in each step.

Shapes: Q queries, D dimensions, N rows of all segments, numbered one after the other ("global rows"), M some of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from oneclip.errors import ShapeError
from oneclip.search.code_products import run_in_threads, view_codes
from oneclip.search.segment_scan import SegmentScan, read_on
from oneclip.search.segments import Segment

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from oneclip.search.code_products import Codes

UNREAD = (0.4, 0.15, 0.05, 0.0)  # shares of the deviation of the products that it may leave unread, in turn
PICKED_TURN = 1_024  # rows that a thread reads at once, of those that are left
FEW = 1_000  # for so many rows, a scan would not be faster than exact products, nor several steps than one
WORTH = 5  # times the candidates; for fewer rows, exact products of all take less time than another step
LEFT = 16  # the scan stops if one row in so many is left


@dataclass(frozen=True)
class TopRows:
    """The best rows of a search, best first; equal scores in the order of the rows.

    Attributes:
        rows: (K,) int64 global rows.
        scores: (K,) float32, see `VectorScan.top`.
        parts: (Q, K) float32, the cosine of each query.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    parts: NDArray[np.float32]


class VectorScan:
    """Search the rows of some segments. Thread-safe.

    Args:
        segments: open ones, of one width.

    Raises:
        ShapeError: if their vectors have different widths.
    """

    def __init__(self, segments: Sequence[Segment]) -> None:
        if len(widths := {segment.dim for segment in segments}) > 1:
            raise ShapeError(f"the segments have vectors of different widths: {sorted(widths)}")
        self.segments = list(segments)
        self.starts = np.cumsum([0] + [segment.rows for segment in segments])
        self._views: list[Sequence[Codes]] | None = None

    def __len__(self) -> int:
        return int(self.starts[-1])

    def scores(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the products (Q, N) float32 of all rows, as accurate as their int8 codes."""
        queries = self._checked(queries)
        found = np.empty((len(queries), len(self)), np.float32)
        read_on(self._parts(queries, found), 0.0)
        return found

    def rescore(
        self, queries: NDArray[np.float32], rows: NDArray[np.int64] | None = None
    ) -> NDArray[np.float32]:
        """Return the products (Q, M) float32 of queries (Q, D) with rows (M,), or with all, as accurate as float32."""
        queries = self._checked(queries)
        if rows is None:
            products = [segment.products(queries) for segment in self.segments]
            return np.concatenate([np.empty((len(queries), 0), np.float32), *products], axis=1)
        found = np.empty((len(queries), len(rows)), np.float32)
        for number, places in self._by_segment(rows):
            local = rows[places] - self.starts[number]
            found[:, places] = self.segments[number].products(queries, local)
        return found

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the vectors (M, D) float32 of rows (M,)."""
        found = np.empty((len(rows), self.segments[0].dim if self.segments else 0), np.float32)
        for number, places in self._by_segment(rows):
            found[places] = self.segments[number].vectors(rows[places] - self.starts[number])
        return found

    def log_normalizers(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return what is stored beside rows (M,): (M,) float32, NaN if nothing is."""
        found = np.full(len(rows), np.nan, np.float32)
        for number, places in self._by_segment(rows):
            stored = self.segments[number].log_normalizers
            if stored is not None:
                found[places] = stored[rows[places] - self.starts[number]]
        return found

    def top(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        weights: Sequence[float] | NDArray[np.float32] | None = None,
        mask: NDArray[np.bool_] | None = None,
        candidates: int = 50,
    ) -> TopRows:
        """Find the rows of the greatest score.

        The score of one query is its cosine; with a negative weight, the cosine with the opposite sign. The score of
        several is the sum of `weight * (cosine - mean) / deviation`, with the mean and the standard deviation of the
        query over all rows, masked or not: a filter does not change the order of two rows.

        Args:
            queries: (Q, D) float32 of unit length.
            k: how many rows to return at most.
            weights: (Q,); 1 by default, negative for what is not wanted.
            mask: (N,) bool, the rows that count.
            candidates: rows that get exact products, at least.

        Raises:
            ShapeError: if queries, weights or mask do not fit the segments or contain NaN.
        """
        queries = self._checked(queries)
        if mask is not None and mask.shape != (len(self),):
            raise ShapeError(f"the mask has shape {mask.shape}; expected ({len(self)},)")
        factors, constants = self.standardize(queries, weights)
        combined = (factors @ queries).astype(np.float32)
        rows, exact = self._find(combined, queries, k, mask, max(k, candidates))
        best = np.lexsort((rows, -exact))[:k]
        rows = rows[best]
        parts = (
            exact[None, best] * np.float32(factors[0]) if len(queries) == 1 else self.rescore(queries, rows)
        )
        scores = (factors @ (parts - constants[:, None])).astype(np.float32)
        order = np.lexsort((rows, -scores))
        return TopRows(rows[order], scores[order], parts[:, order])

    def standardize(
        self, queries: NDArray[np.float32], weights: Sequence[float] | NDArray[np.float32] | None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return factors (Q,) and constants (Q,): a score is `factors @ (cosines - constants)`.

        It is therefore the product with one vector, `factors @ queries`, apart from a constant: one scan is enough.
        """
        given = np.ones(len(queries)) if weights is None else np.asarray(weights, np.float64)
        if given.shape != (len(queries),) or not np.isfinite(given).all():
            raise ShapeError(f"{len(queries)} queries need as many finite weights, not {given.tolist()}")
        if len(queries) == 1:
            return np.where(given < 0, -1.0, 1.0), np.zeros(1)
        moments = [segment.moments(queries) for segment in self.segments]
        shares = np.diff(self.starts)[:, None] / max(len(self), 1)
        means, variances = np.array(moments).reshape(-1, 2, len(queries)).swapaxes(0, 1)
        mean = (shares * means).sum(axis=0)
        deviation = np.sqrt((shares * (variances + (means - mean) ** 2)).sum(axis=0))
        return given / np.where(deviation > 1e-6, deviation, 1), mean

    def _find(
        self,
        query: NDArray[np.float32],
        queries: NDArray[np.float32],
        k: int,
        mask: NDArray[np.bool_] | None,
        candidates: int,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return rows that contain the best `k` of a query (D,), made of `queries` (Q, D), and their exact products."""
        selected = None if mask is None else np.flatnonzero(mask)
        count = len(self) if selected is None else len(selected)
        if count <= max(FEW, candidates):
            rows = np.arange(count) if selected is None else selected
            return rows, self.rescore(query[None], rows)[0]
        scores = np.empty((1, len(self)), np.float32)
        parts = self._parts(query[None], scores, queries)
        known: dict[int, float] = {}
        for share in UNREAD:
            read_on(parts, share)
            some = scores[0] if selected is None else scores[0, selected]
            rows = self._possible(selected, some, parts, k, candidates, known)
            if len(rows) <= max(FEW, len(self) // LEFT):
                break
        while len(rows) > WORTH * candidates and any(part.read_blocks < part.blocks for part in parts):
            self._read_rows(parts, rows, 1 if len(rows) > FEW else None)
            rows = self._possible(rows, scores[0, rows], parts, k, candidates, known)
        return rows, self._exact(parts, rows, known)

    def _parts(
        self,
        queries: NDArray[np.float32],
        scores: NDArray[np.float32],
        parts: NDArray[np.float32] | None = None,
    ) -> list[SegmentScan]:
        """Return the scans of all segments; arguments as of `SegmentScan`, with the scores (Q, N) of all rows."""
        return [
            SegmentScan(segment, self.blocks(i), queries, scores[:, self._slice(i)], parts)
            for i, segment in enumerate(self.segments)
        ]

    def _possible(
        self,
        rows: NDArray[np.int64] | None,
        scores: NDArray[np.float32],
        parts: Sequence[SegmentScan],
        k: int,
        candidates: int,
        known: dict[int, float],
    ) -> NDArray[np.int64]:
        """Return which of sorted rows (M,), None for all, with approximate scores (M,), may be among the best `k`.

        Those with the best approximate scores, `candidates` of them, are always among them.
        """
        best = _greatest(scores, candidates)
        exact = self._exact(parts, np.sort(best if rows is None else rows[best]), known)
        kth = float(np.sort(exact)[-k]) if k else np.inf
        least = float(scores[best].min())
        bounds = self.starts if rows is None else np.searchsorted(rows, self.starts)
        kept = [
            np.flatnonzero(scores[start:end] >= min(part.threshold(kth), least)) + start
            for part, (start, end) in zip(parts, pairwise(bounds.tolist()), strict=True)
        ]
        places = np.concatenate(kept)
        return places if rows is None else rows[places]

    def _read_rows(self, parts: Sequence[SegmentScan], rows: NDArray[np.int64], blocks: int | None) -> None:
        """Read on in sorted rows (M,): some blocks, or all that are left."""
        ends = [
            part.blocks if blocks is None else min(part.read_blocks + blocks, part.blocks) for part in parts
        ]
        jobs = [
            (part, piece - start, end)
            for part, start, end, some in zip(parts, self.starts, ends, self._split(rows), strict=False)
            for piece in np.array_split(some, -(-len(some) // PICKED_TURN) or 1)
        ]
        run_in_threads(lambda job: job[0].read_rows(job[1], job[2]), jobs)
        for part, end in zip(parts, ends, strict=True):
            part.read_blocks = end

    def _exact(
        self, parts: Sequence[SegmentScan], rows: NDArray[np.int64], known: dict[int, float]
    ) -> NDArray[np.float32]:
        """Return the exact products (M,) of the scanned query with sorted rows (M,); `known` has those of before."""
        new = np.array([row for row in rows.tolist() if row not in known], np.int64) if known else rows
        for part, start, some in zip(parts, self.starts, self._split(new), strict=False):
            if len(some):
                known.update(zip(some.tolist(), part.exact(some - start).tolist(), strict=True))
        return np.array([known[row] for row in rows.tolist()], np.float32)

    def _split(self, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Split sorted rows by segment."""
        return [rows[start:end] for start, end in pairwise(np.searchsorted(rows, self.starts).tolist())]

    def _checked(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        dim = self.segments[0].dim if self.segments else queries.shape[-1]
        if queries.ndim != 2 or not len(queries) or queries.shape[1] != dim:
            raise ShapeError(f"the queries have shape {queries.shape}; expected (Q, {dim})")
        if not np.isfinite(queries).all():
            raise ShapeError("the queries contain NaN or infinity")
        return queries.astype(np.float32, copy=False)

    def _slice(self, number: int) -> slice:
        return slice(int(self.starts[number]), int(self.starts[number + 1]))

    def _by_segment(self, rows: NDArray[np.int64]) -> list[tuple[int, NDArray[np.int64]]]:
        """Return the numbers of the segments that rows (M,) lie in, each with the places of its rows in `rows`."""
        owners = np.searchsorted(self.starts, rows, side="right") - 1
        return [(int(number), np.flatnonzero(owners == number)) for number in np.unique(owners)]

    def blocks(self, number: int) -> Sequence[Codes]:
        """Return the int8 codes of a segment, blocks (N, BLOCK) that share the memory of its file."""
        if self._views is None:
            self._views = [view_codes(segment.codes) for segment in self.segments]
        return self._views[number]


def _greatest(scores: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Return where the greatest scores are: (count,). Most rows are left out by a guess, which takes less time."""
    sample = scores[:: max(1, len(scores) // 2_000)]
    above = min(len(sample), 4 * (count + 5) * len(sample) // len(scores) + 1)
    guess = np.partition(sample, -above)[-above]
    some = np.flatnonzero(scores >= guess)
    if len(some) < count:
        return np.argpartition(scores, -count)[-count:]
    return some[np.argpartition(scores[some], -count)[-count:]]
