"""Heat maps from sliding windows: any tower, and the best maps for small ones, at many times the cost.

Windows of several sizes are cut out of the image, and each is encoded as an image of its own. The value of a cell is
the weighted mean over the windows that cover it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from oneclip.explain.placement import Placement

SHARES = (2, 3)  # a window is 1/2 or 1/3 of the side of the input
STEPS = 2  # windows of a size start every 1/2 of their side
CELLS = 12  # cells per side of the result: a multiple of SHARES x STEPS

Windows = list[tuple[slice, slice]]


def cut_windows(image: Image.Image, placement: Placement) -> tuple[list[Image.Image], Windows]:
    """Cut all windows out of an image.

    Returns:
        The windows that show a part of the image, and the rows and columns of cells that each covers.
    """
    images, covered = [], []
    for share in SHARES:
        side = CELLS // share
        starts = range(0, CELLS - side + 1, side // STEPS)
        for top in starts:
            for left in starts:
                box = _pixels(placement, top, left, side)
                if box is not None:
                    images.append(image.crop(box))
                    covered.append((slice(top, top + side), slice(left, left + side)))
    return images, covered


def average_windows(values: NDArray[np.float32], covered: Windows) -> NDArray[np.float32]:
    """Average values (T, windows) of windows over the cells that they cover: (T, CELLS, CELLS).

    Cells at the border are in few windows. Below half of the greatest weight, the mean over all windows makes up for
    what is missing, so that a map does not peak in a corner because of one window.
    """
    total = np.zeros((len(values), CELLS, CELLS))
    weight = np.zeros((CELLS, CELLS))
    for value, cells in zip(values.T, covered, strict=True):
        side = cells[0].stop - cells[0].start
        hat = 1 - np.abs(np.arange(side) + 0.5 - side / 2) / side  # the middle of a window counts most
        share = np.outer(hat, hat) * side**2  # by area: small windows show parts of things
        total[:, cells[0], cells[1]] += share * value[:, None, None]
        weight[cells] += share
    missing = np.maximum(0, weight.max() / 2 - weight)
    total += missing * values.mean(axis=1)[:, None, None]
    return np.asarray(total / (weight + missing), np.float32)


def _pixels(placement: Placement, top: int, left: int, side: int) -> tuple[int, int, int, int] | None:
    """Return the box of a window in pixels of the image; None if it is less than a pixel."""
    spans = []
    for axis, start in ((placement.columns, left), (placement.rows, top)):
        first, last = (
            round(float(np.clip(axis.to_image(axis.input_pixels * cell / CELLS), *axis.seen)))
            for cell in (start, start + side)
        )
        if last <= first:
            return None
        spans.append((first, last))
    return spans[0][0], spans[1][0], spans[0][1], spans[1][1]
