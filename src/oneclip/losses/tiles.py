"""The similarities of all pictures and captions a tile at a time, and what gradients of tiles add up to.

Whoever sums over tiles never holds more than a few of them, whatever the batch.

Shapes: M pictures, N captions, D joint embedding; a tile is of (m, n) logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

from oneclip.errors import ConfigError, ShapeError

TileGradients = tuple[Tensor, Tensor]


class Tile(NamedTuple):
    """Some pictures against some captions."""

    rows: slice  # which pictures
    columns: slice  # which captions
    logits: Tensor  # (m, n), scaled; whoever gets it may write into it
    positives: Tensor  # a view into `logits`: the pairs that belong together; empty where there are none
    of_positives: slice  # the pictures of those pairs


@dataclass(frozen=True)
class Pairs:
    """All pictures against all captions.

    Attributes:
        images: (M, D).
        texts: (N, D).
        scale: a scalar tensor, what similarities are multiplied by.
        size: of a tile, in rows and in columns; those at the edges may be smaller.
        first: the caption of the first picture. Those of the others follow it.
    """

    images: Tensor
    texts: Tensor
    scale: Tensor
    size: int
    first: int = 0

    def tiles(self) -> Iterator[Tile]:
        """Every tile, row by row; the same numbers each time."""
        for rows in _spans(len(self.images), self.size):
            scaled = self.scale * self.images[rows]
            for columns in _spans(len(self.texts), self.size):
                logits = times_transposed(scaled, self.texts[columns])
                offset = self.first + rows.start - columns.start
                positives = logits.diagonal(offset)
                start = rows.start + max(0, -offset)
                yield Tile(rows, columns, logits, positives, slice(start, start + len(positives)))

    def gradients(
        self,
        of_tile: Callable[[Tile], TileGradients],
        needs: tuple[bool, bool, bool],
        is_one_sided: bool = False,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """What gradients of logits mean for pictures (M, D), captions (N, D) and the scale.

        Args:
            of_tile: gives the gradients of a tile's logits, (m, n), as they reach pictures, and as they reach captions.
            needs: which of the three are wanted; None comes instead of the others.
            is_one_sided: what reaches pictures and what reaches captions differ, and the scale gets both. Otherwise
                they are the same, and it gets that once.
        """
        needs_images, needs_texts, needs_scale = needs
        to_images = needs_images or (needs_scale and (is_one_sided or not needs_texts))
        to_texts = needs_texts or (needs_scale and is_one_sided)
        of_images, of_texts = torch.zeros_like(self.images), torch.zeros_like(self.texts)
        for tile in self.tiles():
            for_images, for_texts = of_tile(tile)
            if to_images:
                of_images[tile.rows] += times_transposed(for_images, self.texts[tile.columns].T)
            if to_texts:
                of_texts[tile.columns] += times_transposed(for_texts.T, self.images[tile.rows].T)
        of_scale = torch.zeros_like(self.scale)
        if to_images:
            of_scale += self._through_scale(of_images, self.images)
        if to_texts and (is_one_sided or not to_images):
            of_scale += self._through_scale(of_texts, self.texts)
        return (
            of_images.mul_(self.scale) if needs_images else None,
            of_texts.mul_(self.scale) if needs_texts else None,
            of_scale if needs_scale else None,
        )

    def _through_scale(self, of_scaled: Tensor, features: Tensor) -> Tensor:
        """Gradients of scaled features to that of the scale."""
        of_scale = of_scaled.new_empty(len(of_scaled))
        for rows in _spans(len(of_scaled), self.size):
            of_scale[rows] = torch.linalg.vecdot(of_scaled[rows], features[rows])
        return of_scale.sum()


def times_transposed(x: Tensor, y: Tensor) -> Tensor:
    """(m, k) and (n, k) to (m, n), x @ y.T.

    In fp32 on a CPU through oneDNN, the operator that torch's own compiler emits: torch.mm calls MKL, which takes no
    AVX-512 path on processors that are not Intel's.
    """
    if x.device.type == "cpu" and x.dtype == torch.float32 and _has_onednn():
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, y, None, "none", [], "")
        return product
    return x @ y.T


def on_device(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """A function of a tile as that device runs it best: compiled on CUDA, where each operation would read it anew."""
    return _compiled(function) if device.type == "cuda" and find_spec("triton") else function


def check_tile_size(size: int | None) -> int | None:
    """The size, if it is one.

    Raises:
        ConfigError: if it is not a whole number of at least 1.
    """
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
        raise ConfigError(
            f"tile_size is {size!r}; expected a whole number of at least 1, such as 1024, or None for no tiles"
        )
    return size


def in_full_precision(images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
    """Features of as many pictures as captions, in fp32, or in fp64 if they are.

    Raises:
        ShapeError: if they are not (B, D) both.
    """
    if images.ndim != 2 or images.shape != texts.shape:
        raise ShapeError(
            f"features of pictures are {tuple(images.shape)} and of captions {tuple(texts.shape)}; "
            "expected (B, D) for both, row i of one belonging to row i of the other"
        )
    dtype = torch.promote_types(torch.promote_types(images.dtype, texts.dtype), torch.float32)
    return images.to(dtype), texts.to(dtype)


def as_scalar(value: Tensor | float, like: Tensor) -> Tensor:
    """A number, or a tensor of one element, to a scalar tensor of the dtype and on the device of another."""
    return torch.as_tensor(value, device=like.device).to(like.dtype).reshape(())


def _spans(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


@cache
def _has_onednn() -> bool:
    is_built_in: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return is_built_in and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    compiled: Callable[..., Any] = torch.compile(function, dynamic=True)
    return compiled
