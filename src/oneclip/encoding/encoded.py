"""Types of an encoder's inputs and results, and the split of a batch into images that were read and others.

Shapes: M images that were read, D joint embedding.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from oneclip.image.decode import ImageSource
from oneclip.image.prefetch import SkippedImage

Images: TypeAlias = ImageSource | Iterable[ImageSource]
Features: TypeAlias = NDArray[np.float32]
Ranking: TypeAlias = list[tuple[str, float]]
Labels: TypeAlias = str | Iterable[str]
Raise: TypeAlias = Literal["raise"]
Skip: TypeAlias = Literal["skip"]
Decode: TypeAlias = Literal["exact", "fast"]
Places: TypeAlias = tuple[list[int], list[SkippedImage]]


class Encoded(NamedTuple):
    """Embeddings of the images that could be read, and the other images with their errors.

    Attributes:
        features: (M, D) float32, unit length; a row for each image that could be read.
        kept: for each row, the index of its image in the caller's list.
        skipped: the other images, each with `index`, `name` and `error`.
    """

    features: Features
    kept: list[int]
    skipped: list[SkippedImage]

    @classmethod
    def joined(cls, parts: Sequence[Encoded], embed_dim: int) -> Encoded:
        """Join batches in their order; without batches, features are (0, D)."""
        features = [np.empty((0, embed_dim), np.float32), *(part.features for part in parts)]
        return cls(
            np.concatenate(features),
            [index for part in parts for index in part.kept],
            [image for part in parts for image in part.skipped],
        )


def split_skipped(
    batches: Generator[list[Any], None, None], on_error: Raise | Skip
) -> Generator[tuple[Places, list[Any]], None, None]:
    """Split each batch into the images that were read and the others; closing this closes `batches`.

    Yields:
        For each batch, the indices of the images that were read and the skipped images, and the pixels.

    Raises:
        ImageError: for the first image that could not be read, if `on_error` is "raise".
    """
    first = 0
    with closing(batches):
        for results in batches:
            skipped = [result for result in results if isinstance(result, SkippedImage)]
            if skipped and on_error == "raise":
                raise skipped[0].error
            kept = [first + i for i, result in enumerate(results) if not isinstance(result, SkippedImage)]
            first += len(results)
            yield (kept, skipped), [result for result in results if not isinstance(result, SkippedImage)]
