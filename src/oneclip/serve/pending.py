"""One request whose items are encoded in batches with those of other requests.

Shapes: N items, D joint embedding.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from oneclip.errors import ConfigError, OneCLIPError
from oneclip.serve.errors import ItemError, RequestError

if TYPE_CHECKING:
    from oneclip.encoder import Features

logger = logging.getLogger(__name__)


class PendingRequest:
    """A request that waits for the embeddings of its items. It wakes its event loop once, when all are settled.

    Made in the event loop; other methods may be called in any thread.

    Args:
        items: N files of images, or texts.
        embed_dim: D.

    Attributes:
        answer: the features (N, D), or the error of the first item that failed.
        count: N.
        token_counts: (N,) number of tokens of each text.
        expected: items that are not in the queue of their tower yet; kept by that queue.
    """

    def __init__(self, items: Sequence[Any], embed_dim: int) -> None:
        self._loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[Features] = self._loop.create_future()
        self.count, self.expected = len(items), 0
        self.token_counts: list[int] = []
        self._items: Sequence[Any] = items
        self._features: NDArray[np.float32] = np.empty((len(items), embed_dim), dtype=np.float32)
        self._unsettled = self._first_failed = len(items)
        self._error: OneCLIPError | None = None
        self._is_cancelled = False
        self._lock = threading.Lock()

    def wants(self, index: int) -> bool:
        """Return whether the embedding of an item is still of use: not after an item before it has failed."""
        return not self._is_cancelled and index < self._first_failed

    def items(self, start: int = 0, stop: int | None = None) -> Sequence[Any]:
        """Return items as they were given; none if nobody waits for them any more."""
        with self._lock:
            return self._items[start:stop] if self.wants(start) else ()

    def settle(
        self, index: int, features: Features | None = None, error: BaseException | None = None
    ) -> None:
        """End the work on an item, exactly once for each.

        Args:
            index: of the item.
            features: (D,).
            error: why it cannot be encoded.
        """
        with self._lock:
            if features is not None:
                self._features[index] = features
            if error is not None and index < self._first_failed:
                self._first_failed, self._error = index, _as_answer(index, error)
            self._unsettled -= 1
            if self._unsettled:
                return
        with contextlib.suppress(RuntimeError):  # the event loop has ended
            self._loop.call_soon_threadsafe(self._answer)

    def cancel(self, error: OneCLIPError | None = None) -> None:
        """Let go of the items and the answer, or answer with an error. To be called in the event loop."""
        with self._lock:
            self._is_cancelled, self._items = True, ()
        if error is not None and not self.answer.done():
            self.answer.set_exception(error)
        elif error is None:  # an error that was raised refers to this request, which should not refer to it
            self.answer = self._loop.create_future()
            self.answer.cancel()

    def _answer(self) -> None:
        if self.answer.done():
            return
        if self._error is None:
            self.answer.set_result(self._features)
        else:
            self.answer.set_exception(self._error)
            self._error = None


def _as_answer(index: int, error: BaseException) -> OneCLIPError:
    """Return the error that a request is answered with: 400 for its item, or 500 if the item is not to blame."""
    # a traceback holds the request and its images, and the request holds the error: a cycle
    if not isinstance(error, OneCLIPError) or isinstance(error, ConfigError):
        logger.error("a request failed", exc_info=error)
        error.with_traceback(None)
        return RequestError(500, f"the model failed: {error}", code="internal_error")
    bare = error.with_traceback(None)
    return bare if isinstance(bare, RequestError) else ItemError(index, bare)
