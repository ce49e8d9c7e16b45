"""Open and preprocess images in threads while the model computes."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias, TypeVar, cast

import numpy as np
from PIL import Image

from oneclip.errors import ImageError, OneCLIPError, ShapeError
from oneclip.hardware import decoding_threads
from oneclip.image.arrays import to_8_bits
from oneclip.image.decode import ImageSource, Truncated, open_image

Pixels = TypeVar("Pixels")
Preprocessing: TypeAlias = Callable[[Image.Image], Pixels]


@dataclass(frozen=True)
class SkippedImage:
    """Image that could not be used.

    Attributes:
        index: its position in the list of the caller.
        name: its path, or `image 3` if it has no path.
        error: the reason.
    """

    index: int
    name: str
    error: ImageError


def is_single_image(images: object) -> bool:
    """Report whether this is one image instead of several. An array of four axes, or of paths, is several."""
    if isinstance(images, np.ndarray):
        return images.ndim < 4 and (images.ndim == 0 or images.dtype.kind not in "OUST")
    if isinstance(images, (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)):
        return True
    # callable, because a column of a table can have an attribute `read` that is not a method
    return callable(getattr(images, "read", None))


def is_tensor(value: object) -> bool:
    """Return whether this is a tensor of torch, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def prefetch_images(
    images: ImageSource | Iterable[ImageSource],
    preprocess: Preprocessing[Pixels],
    batch_size: int,
    *,
    max_pixels: int | None = None,
    truncated: Truncated = "refuse",
) -> Generator[list[Pixels | SkippedImage], None, None]:
    """Open and preprocess images up to two batches ahead.

    Args:
        images: several images, or one.
        preprocess: converts one image to a tensor or an array.
        batch_size: images per batch; the last batch may be smaller.
        max_pixels: images with more pixels are skipped; None for the limit of `open_image`.
        truncated: as in `open_image`.

    Yields:
        For each batch, in the given order, the pixels or a `SkippedImage` for each image.

    Raises:
        ShapeError: if `images` is a tensor.
    """
    if is_tensor(images):
        raise ShapeError(
            "encode_images takes images, not tensors; pass a preprocessed tensor to encode_pixels"
        )
    several = (
        [cast(ImageSource, images)] if is_single_image(images) else cast("Iterable[ImageSource]", images)
    )
    items = enumerate(several)
    min_size = getattr(preprocess, "min_size", None)  # of `FastPreprocess`

    def read(index: int, item: ImageSource) -> Pixels | SkippedImage:
        try:
            image = open_image(item, max_pixels=max_pixels, min_size=min_size, truncated=truncated)
            if isinstance(item, Image.Image):  # only files are scaled to 8 bits by open_image
                image = to_8_bits(image, "it", item.format or "PIL")
            return preprocess(image)
        except ImageError as error:
            return _skip(index, item, error)
        except OneCLIPError:  # not the fault of this image, such as a wrong setting
            raise
        except Exception as error:  # from a library, or from the methods of the image
            unexpected = ImageError(f"it cannot be read: {type(error).__name__}: {error}")
            unexpected.__cause__ = error
            return _skip(index, item, unexpected)

    pending: deque[Future[Pixels | SkippedImage]] = deque()
    pool = ThreadPoolExecutor(decoding_threads(), thread_name_prefix="oneclip-read")
    try:
        pending.extend(pool.submit(read, *item) for item in islice(items, 2 * batch_size))
        while pending:
            batch = [pending.popleft().result() for _ in range(min(batch_size, len(pending)))]
            pending.extend(pool.submit(read, *item) for item in islice(items, batch_size))
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)


def _skip(index: int, source: ImageSource, error: ImageError) -> SkippedImage:
    if isinstance(source, (str, os.PathLike)):
        return SkippedImage(index, os.fspath(source), error)
    name = f"image {index}"
    return SkippedImage(index, name, type(error)(f"{name} (counted from 0): {error}"))
