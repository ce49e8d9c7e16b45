"""Position of a model's input in the image that it was made from.

Preprocessing resizes an image, then crops or pads it. Each step is affine, so a pixel of the input is
`scale * position + offset` of the image, per axis.

Shapes: H, W pixels of the image; T texts; R, C rows and columns of a grid over the input.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oneclip.config import PreprocessCfg
from oneclip.image.preprocess import resize_steps


@dataclass(frozen=True)
class Axis:
    """One axis of a placement.

    Attributes:
        pixels: length of the image.
        input_pixels: length of the input.
        scale: pixels of the input per pixel of the image.
        offset: of the image's first edge in the input; negative where a crop removes it.
    """

    pixels: int
    input_pixels: int
    scale: float
    offset: float

    @property
    def seen(self) -> tuple[float, float]:
        """First and last position of the image that the input shows, in pixels of the image."""
        return max(0.0, self.to_image(0)), min(float(self.pixels), self.to_image(self.input_pixels))

    def to_image(self, position: float) -> float:
        """Convert a position in the input to one in the image."""
        return (position - self.offset) / self.scale

    def cell_edges(self, cells: int) -> NDArray[np.float64]:
        """Return the (cells + 1,) edges of equal cells over the input, in pixels of the image."""
        return np.array([self.to_image(self.input_pixels * edge / cells) for edge in range(cells + 1)])

    def weights(self, cells: int) -> NDArray[np.float32]:
        """Return the weights (pixels, cells) of linear interpolation between cells; NaN outside the input."""
        position = (
            np.arange(self.pixels) + 0.5
        ) * self.scale + self.offset  # centres of pixels, in the input
        place = np.clip(position / self.input_pixels * cells - 0.5, 0, cells - 1)
        weights = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(cells)))
        weights[(position < 0) | (position > self.input_pixels)] = np.nan
        return np.asarray(weights, np.float32)


@dataclass(frozen=True)
class Placement:
    """The input of a model in the coordinates of an image that is upright.

    Attributes:
        rows: the vertical axis.
        columns: the horizontal axis.
    """

    rows: Axis
    columns: Axis

    @classmethod
    def of_preprocess(cls, cfg: PreprocessCfg, height: int, width: int) -> Placement:
        """Compute the placement of `oneclip.image.Preprocess(cfg)` for an image of this height and width."""
        resize, crop = resize_steps(cfg)
        resized = resize.output_size(height, width)
        if crop is None:
            sizes, offsets = resized, (0.0, 0.0)
        else:
            sizes = crop.size if isinstance(crop.size, tuple) else (crop.size, crop.size)
            padded = max(resized[0], sizes[0]), max(resized[1], sizes[1])
            top, left = crop.corner(*padded)
            offsets = ((padded[0] - resized[0]) // 2 - top, (padded[1] - resized[1]) // 2 - left)
        return cls(
            Axis(height, sizes[0], resized[0] / height, offsets[0]),
            Axis(width, sizes[1], resized[1] / width, offsets[1]),
        )

    def resample(self, grid: NDArray[np.float32]) -> NDArray[np.float32]:
        """Resample a grid over the input to the pixels of the image.

        Args:
            grid: (T, R, C).

        Returns:
            (T, H, W) float32; NaN outside the part that the input shows.
        """
        rows, columns = self.rows.weights(grid.shape[1]), self.columns.weights(grid.shape[2])
        return np.asarray(rows @ grid @ columns.T, np.float32)
