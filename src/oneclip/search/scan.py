"""Exact search of segments: an int8 scan of all rows, then exact products of those that may be among the best.

The scan reads the dimensions of greatest variance first, and stops as soon as few rows can still be among the best.
What unread dimensions add to the products of a query has the variance `sum(query ** 2 * variances)` over these
dimensions, which is known in advance; a margin of `MARGIN` standard deviations of all that the scan neglects decides.
It then reads the other dimensions of the rows that are left, and at last their residuals, for the exact products of the
last few. Threads take turns of rows, not of operations: they wait for each other once in each step.

Shapes: Q queries, D dimensions, N rows of all segments, numbered one after the other ("global rows"), M some of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from oneclip.errors import ShapeError
from oneclip.search.segments import BLOCK, Segment

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

MARGIN = 5.0  # standard deviations of what the scan neglects
UNREAD = (0.3, 0.15, 0.05, 0.0)  # shares of the deviation of the products that it may leave unread, in turn
TURN = 32_768  # rows that a thread reads at once, of all
PICKED_TURN = 1_024  # and of those that are left
FEW = 1_000  # rows that get exact products at once; for so many, a scan would not be faster
LEFT = 16  # the scan stops if one row in so many is left
_BF16_STEP = 2.0**-8


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
        self._views: list[list[Tensor]] | None = None

    def __len__(self) -> int:
        return int(self.starts[-1])

    def scores(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the products (Q, N) float32 of all rows, as accurate as their int8 codes."""
        queries = self._checked(queries)
        found = np.empty((len(queries), len(self)), np.float32)
        parts = [_SegmentScan(segment, self.blocks(i), queries) for i, segment in enumerate(self.segments)]
        _read(parts, 0.0)
        for number, part in enumerate(parts):
            found[:, self._slice(number)] = part.scores
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
        few = max(FEW, candidates)
        selected = np.arange(len(self)) if mask is None else np.flatnonzero(mask)
        if len(selected) <= few:
            return selected, self.rescore(query[None], selected)[0]
        parts = [
            _SegmentScan(segment, self.blocks(i), query[None], queries)
            for i, segment in enumerate(self.segments)
        ]
        scores = np.empty(len(self), np.float32)
        for share in UNREAD:
            _read(parts, share)
            for number, part in enumerate(parts):
                scores[self._slice(number)] = part.scores[0]
            some = scores if mask is None else scores[selected]
            rows = selected[self._possible(selected, some, parts, k, candidates)]
            if len(rows) <= max(few, len(self) // LEFT):
                break
        if len(rows) > few:
            bounds = np.searchsorted(rows, self.starts)
            left = [rows[bounds[i] : bounds[i + 1]] - self.starts[i] for i in range(len(parts))]
            rows = rows[self._possible(rows, np.concatenate(_read_rows(parts, left)), parts, k, candidates)]
        return rows, self._exact(parts, rows)

    def _possible(
        self,
        rows: NDArray[np.int64],
        scores: NDArray[np.float32],
        parts: Sequence[_SegmentScan],
        k: int,
        candidates: int,
    ) -> NDArray[np.bool_]:
        """Return which of sorted rows (M,), with approximate scores (M,), may be among the best `k`: (M,)."""
        best = _greatest(scores, candidates)
        kth = float(np.sort(self._exact(parts, rows[best]))[-k]) if k else np.inf
        bounds = np.searchsorted(rows, self.starts)
        kept = np.zeros(len(rows), bool)
        for number, part in enumerate(parts):
            some = slice(bounds[number], bounds[number + 1])
            kept[some] = scores[some] >= part.threshold(kth)
        kept[best] = True
        return kept

    def _exact(self, parts: Sequence[_SegmentScan], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the exact products (M,) of the scanned query with rows (M,)."""
        found = np.empty(len(rows), np.float32)
        for number, places in self._by_segment(rows):
            found[places] = parts[number].exact(rows[places] - self.starts[number])
        return found

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

    def blocks(self, number: int) -> list[Tensor]:
        """Return the int8 codes of a segment as tensors (N, BLOCK) that share the memory of its file."""
        if self._views is None:
            import torch

            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*not writable")  # nothing writes to them
                self._views = [[torch.from_numpy(block) for block in s.codes] for s in self.segments]
        return self._views[number]


class _SegmentScan:
    """Products of the rows of one segment with queries, over the blocks of dimensions that were read so far.

    Args:
        segment: that is scanned.
        codes: its blocks.
        queries: (Q, D); of the methods, some use only the first.
        parts: (P, D), what the first query is made of, for `threshold`.
    """

    def __init__(
        self,
        segment: Segment,
        codes: Sequence[Tensor],
        queries: NDArray[np.float32],
        parts: NDArray[np.float32] | None = None,
    ) -> None:
        import torch

        self.segment, self._codes = segment, codes
        self.blocks, self.read_blocks = len(codes), 0
        centred = [] if parts is None else [parts - segment.mean]
        rotated = segment.rotate(np.concatenate([queries, *centred]))
        self.rotated, self._centred_parts = rotated[: len(queries)], rotated[len(queries) :]
        padded = np.zeros((len(queries), self.blocks, BLOCK), np.float32)
        padded.reshape(len(queries), -1)[:, : segment.dim] = self.rotated * segment.scales
        self._scaled = torch.from_numpy(np.ascontiguousarray(padded.swapaxes(0, 1)))
        self.offsets = segment.offsets(queries)
        self._scores = torch.from_numpy(np.repeat(self.offsets[:, None], segment.rows, axis=1))

    @property
    def scores(self) -> NDArray[np.float32]:
        found: NDArray[np.float32] = self._scores.numpy()
        return found

    def read(self, rows: slice, blocks: int) -> Tensor:
        """Add blocks to the scores of some rows, up to `blocks` in all; return these scores."""
        from oneclip.engine.kernels import int8_products

        scores = self._scores[:, rows]
        for number in range(self.read_blocks, blocks):
            scores += int8_products(self._codes[number][rows], self._scaled[number])
        return scores

    def read_rows(self, rows: NDArray[np.int64]) -> Tensor:
        """Return the scores (M,) of the first query with rows (M,), over all blocks."""
        import torch

        from oneclip.engine.kernels import int8_products

        indices = torch.from_numpy(rows)
        scores = self._scores[0].index_select(0, indices)
        for number in range(self.read_blocks, self.blocks):
            scores += int8_products(self._codes[number].index_select(0, indices), self._scaled[number, :1])[0]
        return scores

    def enough(self, share: float) -> int:
        """Return how many blocks leave out at most `share` of the standard deviation of the products."""
        if self.segment.rotation is None or not share:
            return self.blocks
        left = self._variance_after()
        return int(np.argmax(left <= share**2 * left[0]))

    def exact(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the exact products (M,) of the first query with rows (M,)."""
        found: NDArray[np.float32] = (
            self.segment.rotated_products(self.rotated[:1], rows)[0] + self.offsets[0]
        )
        return found

    def threshold(self, kth: float) -> float:
        """Return the least approximate score of a row that may have a greater exact one than `kth`.

        Besides the usual row, whose neglected part is as random as its variance says, there is the row that equals a
        part of the query: its neglected part is as great as can be.
        """
        read = min(self.read_blocks * BLOCK, self.segment.dim)
        whole = self._centred_parts @ self.rotated[0] + self.offsets[0]
        seen = self._centred_parts[:, :read] @ self.rotated[0, :read] + self.offsets[0]
        least = min([kth, *seen[whole >= kth].tolist()])
        rounding = _BF16_STEP * abs(least - self.offsets[0])
        return float(least - rounding - MARGIN * self._deviation())

    def _variance_after(self) -> NDArray[np.float64]:
        """Return the variance of what 0, 1, … B blocks leave out of the products of the first query: (B + 1,)."""
        ends = np.minimum(np.arange(self.blocks + 1) * BLOCK, self.segment.dim)
        sums = np.cumsum(np.append(0, self.rotated[0].astype(np.float64) ** 2 * self.segment.variances))
        left: NDArray[np.float64] = np.maximum(sums[-1] - sums[ends], 0)
        return left

    def _deviation(self) -> float:
        """Return the standard deviation of what is neglected: unread dimensions, and rounding of rows and query."""
        read = min(self.read_blocks * BLOCK, self.segment.dim)
        left = self._variance_after()[self.read_blocks] if self.segment.rotation is not None else 0.0
        steps = self.rotated[0, :read] * self.segment.scales[:read]
        query = (_BF16_STEP * self.rotated[0, :read]) ** 2 @ self.segment.variances[:read] / 12
        return float(np.sqrt(left + (steps @ steps) / 12 + query))


def _read(parts: Sequence[_SegmentScan], share: float) -> None:
    """Read on in all segments, until unread dimensions have at most a share of the standard deviation."""
    from oneclip.engine.thread_groups import run_in_groups

    ends = [max(part.enough(share), part.read_blocks) for part in parts]
    jobs = [
        (part, rows, end)
        for part, end in zip(parts, ends, strict=True)
        if end > part.read_blocks
        for rows in _turns(part.segment.rows)
    ]
    run_in_groups(lambda job: job[0].read(job[1], job[2]), jobs)
    for part, end in zip(parts, ends, strict=True):
        part.read_blocks = end


def _read_rows(parts: Sequence[_SegmentScan], rows: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float32]]:
    """Read all dimensions of some rows of each segment; return their scores with the first query."""
    from oneclip.engine.thread_groups import run_in_groups

    jobs = [
        (part, piece)
        for part, some in zip(parts, rows, strict=True)
        for piece in np.array_split(some, -(-len(some) // PICKED_TURN) or 1)
    ]
    found = run_in_groups(lambda job: job[0].read_rows(job[1]), jobs)
    for part in parts:
        part.read_blocks = part.blocks
    return [scores.numpy() for scores in found]


def _turns(rows: int) -> list[slice]:
    """Divide rows into equal turns."""
    ends = np.linspace(0, rows, -(-rows // TURN) + 1).astype(int).tolist()
    return [slice(start, end) for start, end in pairwise(ends)]


def _greatest(scores: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Return where the greatest scores are: (count,). Most rows are left out by a guess, which takes less time."""
    sample = scores[:: max(1, len(scores) // 2_000)]
    guess = np.quantile(sample, max(0.0, 1 - 4 * (count + 5) / len(scores)))
    some = np.flatnonzero(scores >= guess)
    if len(some) < count:
        return np.argpartition(scores, -count)[-count:]
    return some[np.argpartition(scores[some], -count)[-count:]]
