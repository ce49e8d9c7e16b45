"""Pictures in any form to preprocessed tensors, read in threads while a model computes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from oneclip.errors import ImageError, OneCLIPError, ShapeError
from oneclip.image.arrays import to_8_bits
from oneclip.image.decode import Truncated, open_image

Picture: TypeAlias = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | NDArray[Any]
Preprocessing: TypeAlias = Callable[[Image.Image], Tensor]


@dataclass(frozen=True)
class Skipped:
    """A picture that could not be used.

    Attributes:
        index: its place in the caller's list.
        name: its path, or `picture 3` for what has none.
        error: why.
    """

    index: int
    name: str
    error: ImageError


def is_picture(images: object) -> bool:
    """Whether this is one image, rather than several: an array of four axes is several, and so is one of paths."""
    if isinstance(images, np.ndarray):
        return images.ndim < 4 and (images.ndim == 0 or images.dtype.kind not in "OUST")
    if isinstance(images, (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)):
        return True
    return callable(getattr(images, "read", None))  # a table's column may have a value of that name


def read_ahead(
    images: Picture | Iterable[Picture],
    preprocess: Preprocessing,
    batch_size: int,
    *,
    max_pixels: int | None = None,
    truncated: Truncated = "refuse",
) -> Generator[list[Tensor | Skipped], None, None]:
    """Read pictures, up to two batches before they are asked for.

    Args:
        images: pictures, or a single one.
        preprocess: one picture to one tensor.
        batch_size: how many pictures a batch has; the last one may have fewer.
        max_pixels: pictures with more pixels count as unreadable; None for the limit of `open_image`.
        truncated: as of `open_image`.

    Yields:
        for each batch, in the order given, a tensor for each picture, or why there is none.

    Raises:
        ShapeError: if `images` is a tensor, which is past reading.
    """
    if isinstance(images, Tensor):
        raise ShapeError(
            "a tensor is taken as preprocessed: give it to encode_pixels; encode_images reads pictures"
        )
    several = [cast(Picture, images)] if is_picture(images) else cast("Iterable[Picture]", images)
    items = enumerate(several)
    least = getattr(preprocess, "least", None)  # of `FastPreprocess`

    def read(index: int, item: Picture) -> Tensor | Skipped:
        try:
            image = open_image(item, max_pixels=max_pixels, least=least, truncated=truncated)
            if isinstance(item, Image.Image):  # 16-bit files are scaled where they are opened, these were not
                image = to_8_bits(image, "it", item.format or "PIL")
            return preprocess(image)
        except ImageError as error:
            return skipped(index, item, error)
        except OneCLIPError:  # no fault of this image, such as a setting that cannot be
            raise
        except Exception as error:  # of a library below, or of the image's own methods
            return skipped(index, item, _as_image_error(error))

    def skipped(index: int, item: Picture, error: ImageError) -> Skipped:
        if isinstance(item, (str, os.PathLike)):
            return Skipped(index, os.fspath(item), error)
        name = f"picture {index}"
        return Skipped(index, name, type(error)(f"{name} (counted from 0): {error}"))

    pending: deque[Future[Tensor | Skipped]] = deque()
    pool = ThreadPoolExecutor(_decoding_threads(), thread_name_prefix="oneclip-read")
    try:
        pending.extend(pool.submit(read, *item) for item in islice(items, 2 * batch_size))
        while pending:
            batch = [pending.popleft().result() for _ in range(min(batch_size, len(pending)))]
            pending.extend(pool.submit(read, *item) for item in islice(items, batch_size))
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)


def _as_image_error(error: Exception) -> ImageError:
    made = ImageError(f"it cannot be read: {type(error).__name__}: {error}")
    made.__cause__ = error
    return made


def _decoding_threads() -> int:
    """As many as processors are ours, up to 8: more would only wait for the model."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, available))
