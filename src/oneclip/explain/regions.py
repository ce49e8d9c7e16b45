"""Connected regions of cells above a threshold."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Region(NamedTuple):
    """Bounding rows and columns of adjacent cells, and the largest value among them."""

    rows: slice
    columns: slice
    value: float


def find_regions(cells: NDArray[np.float32], threshold: float) -> list[Region]:
    """Find groups of cells (R, C) at or above a threshold that share edges; NaN is below any threshold."""
    remaining = {(int(row), int(column)) for row, column in np.argwhere(cells >= threshold)}
    regions = []
    while remaining:
        border = [remaining.pop()]
        group = list(border)
        while border:
            row, column = border.pop()
            for neighbour in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
                if neighbour in remaining:
                    remaining.remove(neighbour)
                    border.append(neighbour)
                    group.append(neighbour)
        rows, columns = zip(*group, strict=True)
        regions.append(
            Region(
                slice(min(rows), max(rows) + 1),
                slice(min(columns), max(columns) + 1),
                max(float(cells[cell]) for cell in group),
            )
        )
    return regions
