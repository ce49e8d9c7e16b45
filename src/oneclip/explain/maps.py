"""Heat maps of one image: where it is similar to each of some texts.

Shapes: T texts, H and W pixels of the image, R and C rows and columns of cells.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from oneclip.errors import ConfigError, TextError
from oneclip.explain.overlay import blend, save_sheet
from oneclip.explain.placement import Placement
from oneclip.explain.regions import find_regions


class Box(NamedTuple):
    """Rectangle in pixels of the image; right and bottom are exclusive.

    Attributes:
        value: the largest value in it.
    """

    left: int
    top: int
    right: int
    bottom: int
    value: float


class Peak(NamedTuple):
    """Position of the largest value of a map, in pixels of the image."""

    x: int
    y: int
    value: float


@dataclass(frozen=True, eq=False)
class Maps:
    """Heat maps of one image, one for each text.

    A value is a difference of cosines: how much more similar a place of the image is to the text than to what it is
    contrasted with (`contrast`). Above 0 the text fits better than the others, below 0 worse. A map is evidence of
    similarity, not a segmentation, and values of different models or methods cannot be compared.

    Attributes:
        texts: as given.
        scores: (T,) float32, cosine of the whole image and each text, as `Encoder.similarity` computes it.
        grid: (T, R, C) float32, the values of the cells over the input of the model, from which `values` are
            interpolated.
        placement: where the input lies in the image.
        image: the image, upright.
        method: "dense", "gradient" or "windows".
        contrast: what each map is contrasted with: "the other labels" or "generic texts".
    """

    texts: tuple[str, ...]
    scores: NDArray[np.float32]
    grid: NDArray[np.float32] = field(repr=False)
    placement: Placement = field(repr=False)
    image: Image.Image = field(repr=False)
    method: str
    contrast: str

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def values(self) -> NDArray[np.float32]:
        """(T, H, W) float32 at the size of the image; NaN where preprocessing has cropped it."""
        return self.placement.resample(self.grid)

    @cached_property
    def ceiling(self) -> float:
        """Value at the upper end of the colour scale that all maps share: the largest value, or 0 if none is above."""
        return max(0.0, float(np.nanmax(self._visible())))

    def overlay(self, text: int | str = 0, *, opacity: float = 0.7) -> Image.Image:
        """Draw one map over the image.

        Values of 0 and below are transparent, those of `ceiling` have full colour; the scale is the same for all maps
        of a call, so that an absent thing does not look found. What preprocessing has cropped is gray and dark.

        Args:
            text: its index, or the text itself.
            opacity: of the colour at `ceiling`, from 0 to 1.

        Returns:
            An RGB image of the size of the image.

        Raises:
            TextError: for a text without a map.
        """
        index = self._index(text)
        values = self.placement.resample(self.grid[index : index + 1])[0]
        return blend(self.image, values, self.ceiling, opacity)

    def peak(self, text: int | str = 0) -> Peak:
        """Return the place of a text's largest value: the centre of its cell; `text` as for `overlay`."""
        index = self._index(text)
        row, column = np.unravel_index(np.nanargmax(self._visible()[index]), self.grid.shape[1:])
        y, x = (
            min(int(np.clip(edges[cell : cell + 2], *axis.seen).mean()), axis.pixels - 1)
            for axis, edges, cell in zip(
                (self.placement.rows, self.placement.columns), self._edges(), (row, column), strict=True
            )
        )
        return Peak(x, y, float(self.grid[index, row, column]))

    def boxes(self, q: float = 0.9) -> list[list[Box]]:
        """Find the regions with the largest values.

        A region is a group of adjacent cells whose values are above 0 and at or above the quantile `q` of all maps of
        this call: a text that fits nowhere better than the others has no region.

        Args:
            q: quantile, from 0 to 1.

        Returns:
            For each text its boxes, the largest value first.

        Raises:
            ConfigError: if `q` is outside of 0 to 1.
        """
        if not 0 <= q <= 1:
            raise ConfigError(f"q is {q}; expected a quantile from 0 to 1")
        visible = self._visible()
        threshold = max(float(np.nanquantile(visible, q)), float(np.finfo(np.float32).tiny))
        rows, columns = (
            np.clip(np.round(edges), *axis.seen).astype(int)
            for axis, edges in zip((self.placement.rows, self.placement.columns), self._edges(), strict=True)
        )
        found = []
        for cells in visible:
            regions = [
                Box(
                    int(columns[region.columns.start]),
                    int(rows[region.rows.start]),
                    int(columns[region.columns.stop]),
                    int(rows[region.rows.stop]),
                    region.value,
                )
                for region in find_regions(cells, threshold)
            ]
            found.append(sorted(regions, key=lambda box: -box.value))
        return found

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the overlays of all texts side by side, each with its text and its score, and the colour scale.

        Args:
            path: of the image file; its ending is the format, such as .png or .jpg.

        Raises:
            ConfigError: for an ending that Pillow does not know.
            OutputError: if the file cannot be written.
        """
        overlays = (self.overlay(index) for index in range(len(self)))
        captions = [f"{text}  {score:.3f}" for text, score in zip(self.texts, self.scores, strict=True)]
        save_sheet(path, overlays, captions, self.ceiling)

    def _index(self, text: int | str) -> int:
        """Return the index of a text.

        Raises:
            TextError: if there is no such map.
        """
        if isinstance(text, str):
            if text in self.texts:
                return self.texts.index(text)
        elif -len(self) <= text < len(self):
            return int(text) % len(self)
        raise TextError(f"no map of {text!r}; the maps are of {', '.join(map(repr, self.texts))}")

    def _visible(self) -> NDArray[np.float32]:
        """Return the grid with NaN for cells whose centre lies in padding."""
        masks = []
        for axis, cells in zip(
            (self.placement.rows, self.placement.columns), self.grid.shape[1:], strict=True
        ):
            centres = [axis.to_image(axis.input_pixels * (cell + 0.5) / cells) for cell in range(cells)]
            masks.append([0 <= centre <= axis.pixels for centre in centres])
            if not any(masks[-1]):  # the image is thinner than a cell
                masks[-1][cells // 2] = True
        return np.where(np.outer(masks[0], masks[1]), self.grid, np.float32(np.nan))

    def _edges(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the edges of the rows and of the columns of cells, in pixels of the image."""
        _, rows, columns = self.grid.shape
        return self.placement.rows.cell_edges(rows), self.placement.columns.cell_edges(columns)
