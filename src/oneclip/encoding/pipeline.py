"""Interface of the path through a model's towers, and pipelined work on batches.

The next batch is started before the last one's embeddings are fetched from the device.

Shapes: B batch, L tokens, D joint embedding, (H, W) pixels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

PendingFeatures: TypeAlias = Callable[[], NDArray[np.float32]]  # waits for the embeddings and returns them
K = TypeVar("K")
V = TypeVar("V")
P = TypeVar("P")


class Pipeline(Protocol):
    """Path of images and texts through the towers of a model.

    Attributes:
        preprocess: a PIL image to what `start_images` takes of it; it can be called in threads.
        depth: number of batches to start before the first result is fetched.
    """

    preprocess: Any
    depth: int

    def start_images(self, pixels: Sequence[Any]) -> PendingFeatures:
        """Start to encode images, made by `preprocess`: (B, D) of unit length.

        Raises:
            CheckpointError: by the returned function, if an embedding is not finite.
        """
        ...

    def start_texts(self, ids: NDArray[np.int64]) -> PendingFeatures:
        """Start to encode token ids (B, L), as `start_images` does images."""
        ...


def pipelined(
    batches: Generator[tuple[K, V], None, None], start: Callable[[V], P], depth: int
) -> Generator[tuple[K, P], None, None]:
    """Start the work on each batch `depth` batches before its result is yielded.

    Args:
        batches: pairs of a key and the input of `start`.
        start: starts the work on one batch.
        depth: number of batches that are started ahead.

    Yields:
        The key and the result of `start` for each batch, in order. An error is raised after the results of the batches
        before it.
    """
    pending: deque[tuple[K, P]] = deque()
    error: Exception | None = None
    with closing(batches):
        while error is None:
            try:
                key, value = next(batches)
                pending.append((key, start(value)))
            except Exception as raised:
                error = raised
            else:
                if len(pending) > depth:
                    yield pending.popleft()
        yield from pending
        try:
            if not isinstance(error, StopIteration):
                raise error
        finally:
            del error  # it refers to this frame, which refers to it
