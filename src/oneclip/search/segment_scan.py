"""Int8 scan of one segment: products of its rows with a query, over as many dimensions as were read so far.

Shapes: Q queries, P parts of a query, D dimensions, B blocks of them, N rows of a segment, M some of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from oneclip.search.code_products import add_products, run_in_threads
from oneclip.search.segments import BLOCK, Segment

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from oneclip.search.code_products import Codes

MARGIN = 5.0  # standard deviations of what the scan neglects
TURN = 32_768  # rows that a thread reads at once
_BF16_STEP = 2.0**-8


class SegmentScan:
    """Products of the rows of one segment with queries, over the blocks of dimensions that were read so far.

    Args:
        segment: that is scanned.
        codes: its blocks, from `view_codes`.
        queries: (Q, D); of the methods, some use only the first.
        scores: (Q, N), to write to.
        parts: (P, D), what the first query is made of, for `threshold`.
    """

    def __init__(
        self,
        segment: Segment,
        codes: Sequence[Codes],
        queries: NDArray[np.float32],
        scores: NDArray[np.float32],
        parts: NDArray[np.float32] | None = None,
    ) -> None:
        self.segment, self._codes = segment, codes
        self.blocks, self.read_blocks = len(codes), 0
        self.rotated = segment.rotate(queries)
        if parts is not None:
            rotated = (
                self.rotated if len(parts) == 1 else segment.rotate(parts)
            )  # one part is the query, or -query
            self._centred_parts = rotated - segment.rotated_mean
        padded = np.zeros((len(queries), self.blocks, BLOCK), np.float32)
        padded.reshape(len(queries), -1)[:, : segment.dim] = self.rotated * segment.scales
        self._scaled = np.ascontiguousarray(padded.swapaxes(0, 1))
        self.offsets, self._scores = segment.offsets(queries), scores

    def read(self, rows: slice, blocks: int) -> None:
        """Add blocks to the scores of some rows, up to `blocks` in all."""
        scores = self._scores[:, rows]
        for number in range(self.read_blocks, blocks):
            base = scores if number else self.offsets[:, None]
            add_products(self._codes[number], rows, self._scaled[number], base, scores)

    def read_rows(self, rows: NDArray[np.int64], blocks: int) -> None:
        """Add blocks to the scores of rows (M,) with the first query, up to `blocks` in all."""
        scores = self._scores[:1, rows]
        for number in range(self.read_blocks, blocks):
            add_products(self._codes[number], rows, self._scaled[number, :1], scores, scores)
        self._scores[:1, rows] = scores

    def enough(self, share: float) -> int:
        """Return how many blocks leave out at most `share` of the standard deviation of the products."""
        if self.segment.rotation is None or not share:
            return self.blocks
        left = self._neglected
        return min(int(np.count_nonzero(left > share * left[0])), self.blocks)

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
        products = self._centred_parts * self.rotated[0]
        whole, seen = products.sum(axis=1) + self.offsets[0], products[:, :read].sum(axis=1) + self.offsets[0]
        least = min([kth, *seen[whole >= kth].tolist()])
        rounding = _BF16_STEP * abs(least - self.offsets[0])
        return float(least - rounding - MARGIN * self._neglected[self.read_blocks])

    @cached_property
    def _neglected(self) -> NDArray[np.float64]:
        """Standard deviation of what is neglected once 0, 1, … B blocks are read: (B + 1,).

        It comes from the unread dimensions, and from the rounding of rows and query.
        """
        squares = self.rotated[0] ** 2
        values = np.stack([squares * self.segment.variances, squares * self.segment.scales**2])
        blocks = np.add.reduceat(values, np.arange(0, self.segment.dim, BLOCK), axis=1, dtype=np.float64)
        read, steps = np.pad(np.cumsum(blocks, axis=1), ((0, 0), (1, 0)))
        unread = read[-1] - read if self.segment.rotation is not None else 0.0
        found: NDArray[np.float64] = np.sqrt(unread + (steps + _BF16_STEP**2 * read) / 12)
        return found


def read_on(parts: Sequence[SegmentScan], share: float) -> None:
    """Read on in all segments, until unread dimensions have at most a share of the standard deviation."""
    ends = [max(part.enough(share), part.read_blocks) for part in parts]
    jobs = [
        (part, rows, end)
        for part, end in zip(parts, ends, strict=True)
        if end > part.read_blocks
        for rows in _turns(part.segment.rows)
    ]
    run_in_threads(lambda job: job[0].read(job[1], job[2]), jobs)
    for part, end in zip(parts, ends, strict=True):
        part.read_blocks = end


@lru_cache
def _turns(rows: int) -> list[slice]:
    """Divide rows into equal turns."""
    ends = np.linspace(0, rows, -(-rows // TURN) + 1).astype(int).tolist()
    return [slice(start, end) for start, end in pairwise(ends)]
