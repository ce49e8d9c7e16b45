"""Encode the images and texts of many requests in common batches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from oneclip.errors import ImageError, TextError
from oneclip.serve.errors import ItemError

if TYPE_CHECKING:
    from oneclip.encoder import Encoder, Features
    from oneclip.serve.settings import ServeSettings

T = TypeVar("T")


class Embedder:
    """An encoder behind queues.

    Args:
        encoder: the model.
        settings: of the server.
    """

    def __init__(self, encoder: Encoder, settings: ServeSettings) -> None:
        self.encoder, self.settings = encoder, settings

    async def embed_images(self, images: Sequence[bytes]) -> Features:
        """Encode the files of images.

        Returns:
            (N, D) float32 of unit length.

        Raises:
            ItemError: for the first image that cannot be read.
            QueueFullError, DeadlineError, NotReadyError: see there.
        """
        for index, image in enumerate(images):
            try:
                await self.run(self.encoder.encode_images, image)
            except ImageError as error:
                raise ItemError(index, error) from error
        return await self.run(self.encoder.encode_images, list(images))

    async def embed_texts(
        self, texts: Sequence[str], *, truncate: bool = False
    ) -> tuple[Features, list[int]]:
        """Encode texts.

        Args:
            texts: N texts.
            truncate: cut texts with more tokens than the model reads instead of refusing them.

        Returns:
            (N, D) float32 of unit length, and the number of tokens of each text, with start and end.

        Raises:
            ItemError: for the first text that cannot be encoded.
            QueueFullError, DeadlineError, NotReadyError: see there.
        """
        try:
            features = await self.run(
                lambda: self.encoder.encode_texts(texts, overflow="truncate" if truncate else "error")
            )
        except TextError as error:
            raise ItemError(0, error) from error
        return features, [1] * len(texts)

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function in the pool of threads that decode images."""
        return await asyncio.to_thread(function, *arguments)

    def close(self) -> None:
        """End the threads."""
