"""Logits of a contrastive loss computed in tiles, and their gradients.

A loss that sums over tiles holds only a few of them at once, for any batch size.

Shapes: M images, N texts, D joint embedding; a tile has (m, n) logits.
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
    """Logits of some images against some texts."""

    rows: slice  # indices of the images
    columns: slice  # indices of the texts
    logits: Tensor  # (m, n), scaled; may be overwritten
    positives: Tensor  # a view into `logits`: the matching pairs, possibly empty
    positive_rows: slice  # indices of the images of those pairs


@dataclass(frozen=True)
class TiledLogits:
    """Scaled similarities of all images and all texts, computed one tile at a time.

    Attributes:
        images: (M, D).
        texts: (N, D).
        scale: a scalar tensor that multiplies the similarities.
        size: rows and columns of a tile; tiles at the edges may be smaller.
        first: index of the text that matches the first image. The others follow in order.
    """

    images: Tensor
    texts: Tensor
    scale: Tensor
    size: int
    first: int = 0

    def tiles(self) -> Iterator[Tile]:
        """Yield every tile, row by row; the same numbers each time."""
        for rows in _spans(len(self.images), self.size):
            scaled = self.scale * self.images[rows]
            for columns in _spans(len(self.texts), self.size):
                logits = matmul_transposed(scaled, self.texts[columns])
                offset = self.first + rows.start - columns.start
                positives = logits.diagonal(offset)
                start = rows.start + max(0, -offset)
                yield Tile(rows, columns, logits, positives, slice(start, start + len(positives)))

    def gradients(
        self,
        tile_gradients: Callable[[Tile], TileGradients],
        needs: tuple[bool, bool, bool],
        is_one_sided: bool = False,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Compute the gradients of the images (M, D), the texts (N, D) and the scale from those of the logits.

        Args:
            tile_gradients: returns two gradients (m, n) of a tile's logits: one for the images, one for the texts.
            needs: which of the three gradients to return; the others are None.
            is_one_sided: the gradients for images and texts differ, and the scale gets both. Otherwise they are the
                same, and the scale gets them once.
        """
        needs_images, needs_texts, needs_scale = needs
        to_images = needs_images or (needs_scale and (is_one_sided or not needs_texts))
        to_texts = needs_texts or (needs_scale and is_one_sided)
        image_grad, text_grad = torch.zeros_like(self.images), torch.zeros_like(self.texts)
        for tile in self.tiles():
            for_images, for_texts = tile_gradients(tile)
            if to_images:
                image_grad[tile.rows] += matmul_transposed(for_images, self.texts[tile.columns].T)
            if to_texts:
                text_grad[tile.columns] += matmul_transposed(for_texts.T, self.images[tile.rows].T)
        scale_grad = torch.zeros_like(self.scale)
        if to_images:
            scale_grad += self._scale_gradient(image_grad, self.images)
        if to_texts and (is_one_sided or not to_images):
            scale_grad += self._scale_gradient(text_grad, self.texts)
        return (
            image_grad.mul_(self.scale) if needs_images else None,
            text_grad.mul_(self.scale) if needs_texts else None,
            scale_grad if needs_scale else None,
        )

    def _scale_gradient(self, scaled_grad: Tensor, features: Tensor) -> Tensor:
        """Compute the gradient of the scale from that of the scaled features."""
        scale_grad = scaled_grad.new_empty(len(scaled_grad))
        for rows in _spans(len(scaled_grad), self.size):
            scale_grad[rows] = torch.linalg.vecdot(scaled_grad[rows], features[rows])
        return scale_grad.sum()


def matmul_transposed(x: Tensor, y: Tensor) -> Tensor:
    """Compute x @ y.T for (m, k) and (n, k) matrices: (m, n).

    In fp32 on a CPU this calls oneDNN, by the operator that torch.compile emits: torch.mm calls MKL, which does not use
    AVX-512 on processors of other makers than Intel.
    """
    if x.device.type == "cpu" and x.dtype == torch.float32 and _has_onednn():
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, y, None, "none", [], "")
        return product
    return x @ y.T


def compile_for_device(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """Compile a function of a tile for CUDA, where each uncompiled operation would read the tile again."""
    return _compiled(function) if device.type == "cuda" and find_spec("triton") else function


def check_tile_size(size: int | None) -> int | None:
    """Return the size unchanged if it is valid.

    Raises:
        ConfigError: if it is neither None nor a whole number of at least 1.
    """
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
        raise ConfigError(
            f"tile_size is {size!r}; expected a whole number of at least 1, for example 1024, or None for no tiles"
        )
    return size


def to_full_precision(images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
    """Convert the features of paired images and texts to fp32; fp64 stays.

    Raises:
        ShapeError: if they are not both (B, D).
    """
    if images.ndim != 2 or images.shape != texts.shape:
        raise ShapeError(
            f"image features have shape {tuple(images.shape)} and text features {tuple(texts.shape)}; "
            "expected (B, D) for both, where row i of the images matches row i of the texts"
        )
    dtype = torch.promote_types(torch.promote_types(images.dtype, texts.dtype), torch.float32)
    return images.to(dtype), texts.to(dtype)


def as_scalar(value: Tensor | float, like: Tensor) -> Tensor:
    """Convert a number or a tensor with one element to a scalar tensor with the dtype and device of `like`."""
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
