"""Encode the images and texts of many requests in common batches.

Shapes: N items of a request, L tokens, D joint embedding.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from oneclip.errors import ImageError, OneCLIPError
from oneclip.hardware import decoding_threads
from oneclip.image import open_image
from oneclip.serve.access_log import count_items
from oneclip.serve.decode_pool import DecodePool
from oneclip.serve.errors import DeadlineError, ItemError, NotReadyError, QueueFullError, RequestError
from oneclip.serve.metrics import Metrics
from oneclip.serve.pending import PendingRequest
from oneclip.serve.text_tokenizer import TextTokenizer
from oneclip.serve.tower_queue import Batch, QueuedItem, TowerQueue
from oneclip.text.batching.length_buckets import SORT_WINDOW, bucket_by_length

if TYPE_CHECKING:
    from oneclip.encoding import BaseEncoder, Features
    from oneclip.explain import Maps
    from oneclip.serve.settings import ServeSettings

T = TypeVar("T")

TEXTS_PER_IMAGE = 16  # in a batch, as in those of the encoder: texts are shorter, and sorted by length
MAX_CHARACTERS = 2_000_000  # of all texts of a request; the slowest to tokenize take 1 s for each million


class Embedder:
    """An encoder behind queues: one of images that are decoded in threads, and one of texts.

    The vector of an item is the same in any batch, up to rounding; with int8 arithmetic it is not, because there the
    scale of the activations is that of the whole batch. See `is_batch_invariant`.

    A batch has up to `max_batch` images, or 16 times as many texts.

    Args:
        encoder: the model.
        settings: of the server.
        metrics: of the server.

    Attributes:
        is_closed: whether new items are refused.
    """

    def __init__(self, encoder: BaseEncoder, settings: ServeSettings, metrics: Metrics | None = None) -> None:
        self.encoder, self.settings, self.metrics = encoder, settings, metrics or Metrics()
        self._waiting = {"image": 0, "text": 0}  # items that were accepted and are not answered yet
        self.is_closed = False
        self._tokens = TextTokenizer(encoder)
        threads = decoding_threads()
        self._pool = DecodePool(threads, max_decoded=2 * settings.max_batch + threads)
        self._explaining = ThreadPoolExecutor(1, thread_name_prefix="oneclip-explain")
        images, texts = encoder.pipeline(), encoder.pipeline()
        self._preprocess = images.preprocess
        shared: Any = {
            "max_wait": settings.max_wait_ms / 1000,
            "metrics": self.metrics,
            "depth": images.depth,
        }
        self._images = TowerQueue(
            "image",
            images.start_images,
            max_batch=settings.max_batch,
            on_taken=self._pool.release,
            **shared,
        )
        self._max_texts = TEXTS_PER_IMAGE * settings.max_batch
        self._texts = TowerQueue(
            "text",
            lambda ids: texts.start_texts(np.stack(ids)),
            max_batch=self._max_texts,
            window=self._max_texts * SORT_WINDOW,
            arrange=self._arrange_texts,
            **shared,
        )

    @property
    def is_batch_invariant(self) -> bool:
        """Whether the vector of an item depends on it alone, up to rounding."""
        return not self.encoder.precision.endswith("int8")

    async def embed_images(self, images: Sequence[bytes]) -> Features:
        """Encode the files of images.

        Returns:
            (N, D) float32 of unit length.

        Raises:
            ItemError: for the first image that cannot be read.
            QueueFullError: if too many items wait.
            DeadlineError: if it takes too long.
            NotReadyError: if the server stops.
            RequestError: if these are more images than may wait, or the model fails.
        """
        with self._accepted("image", len(images)):
            if not images:
                return np.empty((0, self.encoder.embed_dim), dtype=np.float32)
            request = PendingRequest(images, self.encoder.embed_dim)
            self._images.announce(request)
            self._pool.decode(partial(self._decode, request, index) for index in range(len(images)))
            return await self._answer(request)

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
            QueueFullError, DeadlineError, NotReadyError, RequestError: as by `embed_images`.
        """
        with self._accepted("text", len(texts)):
            if (characters := sum(map(len, texts))) > MAX_CHARACTERS:
                message = f"the texts have {characters} characters; expected at most {MAX_CHARACTERS}"
                raise RequestError(413, f"{message}: send them in parts", code="too_many_characters")
            if not texts:
                return np.empty((0, self.encoder.embed_dim), dtype=np.float32), []
            request = PendingRequest(texts, self.encoder.embed_dim)
            self._texts.announce(request)
            self._pool.submit(self._tokenize, request, truncate)
            return await self._answer(request), request.token_counts

    async def explain(self, image: bytes, texts: Sequence[str], **options: Any) -> Maps:
        """Make heat maps of an image, one request after the other: each occupies the processor for itself.

        Args:
            image: the file of the image.
            texts: what to look for in it.
            options: of `oneclip.Encoder.explain`.

        Raises:
            ImageError, TextError, ConfigError: as by `oneclip.Encoder.explain`.
            QueueFullError, DeadlineError, NotReadyError: as by `embed_images`.
        """
        with self._accepted("image", 1):
            try:
                explain: Callable[..., Maps] = self.encoder.explain  # type: ignore[attr-defined]  # or ConfigError
                future = self._explaining.submit(explain, image, texts, **options)
            except RuntimeError as error:  # the pool was shut down
                raise _stopping() from error
            try:
                return await asyncio.wait_for(asyncio.wrap_future(future), self.settings.timeout)
            except asyncio.TimeoutError as error:
                raise DeadlineError(self.settings.timeout) from error

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function in the pool of threads that decode images.

        Raises:
            NotReadyError: if the server stops.
        """
        try:
            future = self._pool.submit(function, *arguments)
        except RuntimeError as error:
            raise _stopping() from error
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Refuse new items, wait for the answers to those that were accepted, and end the threads.

        Raises nothing and blocks: call it in a thread, or when no request is left.
        """
        self.is_closed = True
        for queue in (self._images, self._texts):
            queue.close(self.settings.timeout)
        self._pool.close()
        self._explaining.shutdown()

    @contextmanager
    def _accepted(self, kind: str, count: int) -> Iterator[None]:
        """Count items as waiting, until their request is answered."""
        metrics, limit, waiting = self.metrics, self.settings.max_queue, sum(self._waiting.values())
        try:
            if self.is_closed:
                raise _stopping()
            if count > limit:
                message = f"the request has {count} {kind}s; expected at most {limit}: send it in parts"
                raise RequestError(413, message, code="too_many_items")
            if waiting + count > limit:
                raise QueueFullError(waiting)
            self._count(kind, count)
            metrics.items.labels(kind).inc(count)
            count_items(count)
            try:
                yield
            finally:
                self._count(kind, -count)
        except ItemError:
            metrics.errors.labels(kind).inc()
            raise
        except RequestError as error:
            metrics.errors.labels(error.code).inc()
            raise
        except asyncio.CancelledError:
            metrics.errors.labels("cancelled").inc()
            raise

    def _count(self, kind: str, count: int) -> None:
        self._waiting[kind] += count
        self.metrics.queued.labels(kind).inc(count)

    async def _answer(self, request: PendingRequest) -> Features:
        seconds = self.settings.timeout
        timer = asyncio.get_running_loop().call_later(seconds, request.cancel, DeadlineError(seconds))
        try:
            return await request.answer
        finally:
            timer.cancel()
            request.cancel()

    def _decode(self, request: PendingRequest, index: int) -> bool:
        """Decode and preprocess one image for its queue; return whether it waits there."""
        error: BaseException | None = None
        try:
            for image in request.items(index, index + 1):  # none if the request was cancelled
                began = time.perf_counter()
                value = self._read(image)
                self.metrics.decode_seconds.labels("image").observe(time.perf_counter() - began)
                self._images.put(request, [QueuedItem(request, index, value)])
                return True
        except BaseException as raised:
            error = raised
        self._images.withdraw(request)
        request.settle(index, error=error)
        return False

    def _read(self, image: bytes) -> Any:
        limit = self.settings.max_pixels or self.encoder.max_pixels
        try:
            opened = open_image(image, max_pixels=limit, truncated=self.encoder.truncated)
            return self._preprocess(opened)
        except OneCLIPError:
            raise
        except Exception as error:  # from a library
            raise ImageError(f"it cannot be read: {type(error).__name__}: {error}") from error

    def _tokenize(self, request: PendingRequest, truncate: bool) -> None:
        """Tokenize the texts of a request for their queue."""
        failed, error = 0, None
        texts = request.items()  # none if the request was cancelled
        if texts:
            began = time.perf_counter()
            try:
                ids = self._tokens.rows(texts, truncate)
                request.token_counts = self._tokens.counts(texts)
                self.metrics.decode_seconds.labels("text").observe(time.perf_counter() - began)
                values = map(_TokenizedText, texts, ids)
                self._texts.put(
                    request, [QueuedItem(request, index, value) for index, value in enumerate(values)]
                )
                return
            except BaseException as raised:
                failed, error = self._tokens.first_bad(texts, raised), raised
        self._texts.withdraw(request, request.count)
        for index in range(request.count):
            request.settle(index, error=error if index == failed else None)

    def _arrange_texts(self, items: list[QueuedItem]) -> Iterator[Batch]:
        """Arrange texts in batches of similar length; equal texts, also of different requests, share a row."""
        by_text: dict[str, list[QueuedItem]] = {}
        for item in items:
            by_text.setdefault(item.value.text, []).append(item)
        texts = list(by_text)

        def rows(some: Sequence[str]) -> NDArray[np.int64]:
            return np.stack([by_text[text][0].value.ids for text in some])

        for positions, ids in bucket_by_length(texts, rows, self._max_texts, self._tokens.pad_id):
            yield [(by_text[texts[position]], row) for position, row in zip(positions, ids, strict=True)]


class _TokenizedText(NamedTuple):
    """Text in its queue, with its ids (L,)."""

    text: str
    ids: NDArray[np.int64]


def _stopping() -> NotReadyError:
    return NotReadyError("the server stops; try another one, or again")
