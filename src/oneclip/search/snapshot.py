"""State of an index at one moment, which a search keeps using while others change the index.

Shapes: N embeddings in all segments, D joint embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from oneclip.errors import DataError
from oneclip.search.catalogue import Catalogue
from oneclip.search.scan import VectorScan
from oneclip.search.segments import Segment

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_ATTEMPTS = 10  # to open segments while a compaction replaces them


@dataclass(frozen=True)
class Snapshot:
    """Embeddings of an index at one moment. The rows of all segments are numbered one after the other.

    Attributes:
        generation: of the catalogue.
        scan: the embeddings.
        contents: (N,) int64 id of the content of each row; -1 for rows without a file.
    """

    generation: tuple[int, ...]
    scan: VectorScan
    contents: NDArray[np.int64]

    @cached_property
    def is_live(self) -> NDArray[np.bool_]:
        """(N,) rows whose content belongs to a file."""
        return self.contents >= 0

    @cached_property
    def mean_log_normalizer(self) -> float:
        """Mean over the live rows, see `oneclip.search.relevance`."""
        return float(np.mean(self.scan.log_normalizers(np.flatnonzero(self.is_live)), dtype=np.float64))

    @cached_property
    def _by_content(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Live contents, sorted, and the row of each."""
        rows = np.flatnonzero(self.is_live)
        order = np.argsort(self.contents[rows])
        return self.contents[rows][order], rows[order]

    def rows_of(self, contents: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows of contents that have an embedding here; others are left out."""
        rows = self.row_of_each(contents)
        return rows[rows >= 0]

    def row_of_each(self, contents: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the row of each of some contents (M,): (M,), -1 for those that have no embedding here."""
        known, rows = self._by_content
        if not len(known):
            return np.full(len(contents), -1, np.int64)
        places = np.searchsorted(known, contents)
        places[places == len(known)] = 0
        return np.where(known[places] == contents, rows[places], -1)

    def mask_of(self, contents: Any) -> NDArray[np.bool_]:
        """Return the (N,) mask of the rows of contents."""
        mask = np.zeros(len(self.contents), np.bool_)
        mask[self.rows_of(np.asarray(contents, np.int64))] = True
        return mask


def open_snapshot(catalogue: Catalogue, folder: Path) -> Snapshot:
    """Open the segments that the catalogue names now.

    Args:
        catalogue: of the index.
        folder: of the segments.

    Raises:
        DataError: if a segment is missing or damaged.
    """
    for attempt in range(MAX_ATTEMPTS):
        with catalogue.reading():
            generation = catalogue.generation()
            names, stored = catalogue.segment_names(), catalogue.stored_rows()
        segments: list[Segment] = []
        try:
            for name in names.values():
                segments.append(Segment.open(folder / name))
        except DataError:
            for segment in segments:
                segment.close()
            # a compaction may have replaced it since the catalogue was read
            if attempt == MAX_ATTEMPTS - 1 or catalogue.segment_names() == names:
                raise
            continue
        return Snapshot(generation, VectorScan(segments), _contents(list(names), segments, stored))
    raise AssertionError


def _contents(
    numbers: list[int], segments: list[Segment], stored: list[tuple[int, int, int]]
) -> NDArray[np.int64]:
    """Return the content of each row, or -1."""
    starts = np.cumsum([0, *(segment.rows for segment in segments)])
    contents = np.full(int(starts[-1]), -1, np.int64)
    if stored:
        content, segment, row = np.array(stored, np.int64).T
        first = {number: int(start) for number, start in zip(numbers, starts[:-1], strict=True)}
        start = np.array([first.get(number, -1) for number in segment.tolist()], np.int64)
        contents[(start + row)[start >= 0]] = content[start >= 0]
    return contents
