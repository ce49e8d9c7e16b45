"""Pool of threads that decode images ahead of the model, within a limit on decoded images that wait."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
Decode = Callable[[], bool]

OTHER_THREADS = 4  # so that a text, or a search, never waits for images that are being decoded


class DecodePool:
    """Threads that decode images, and call other functions of requests.

    Args:
        threads: number of images that are decoded at once.
        max_decoded: images that may be in memory decoded; further ones wait as files.
    """

    def __init__(self, threads: int, max_decoded: int) -> None:
        self._threads, self._max_decoded = threads, max_decoded
        self._pool = ThreadPoolExecutor(threads + OTHER_THREADS, thread_name_prefix="oneclip-decode")
        self._lock = threading.Lock()
        self._waiting: deque[Decode] = deque()
        self._busy = 0  # threads that decode
        self._decoded = 0  # images that are being decoded, or wait for the model

    def decode(self, images: Iterable[Decode]) -> None:
        """Decode images in their order, each once there is room for it.

        Args:
            images: decode one image each, and return whether it now waits for the model, until `release`.
        """
        with self._lock:
            self._waiting.extend(images)
            self._start()

    def release(self, count: int) -> None:
        """Make room for more: the model has taken decoded images."""
        with self._lock:
            self._decoded -= count
            self._start()

    def submit(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        """Call a function in a thread that does not wait for images."""
        return self._pool.submit(function, *arguments)

    def close(self) -> None:
        """Wait for what was submitted, and end the threads."""
        self._pool.shutdown()

    def _start(self) -> None:
        while self._waiting and self._busy < self._threads and self._decoded < self._max_decoded:
            self._busy += 1
            self._decoded += 1
            self._pool.submit(self._run, self._waiting.popleft())

    def _run(self, decode: Decode) -> None:
        is_kept = False
        try:
            is_kept = decode()
        finally:
            with self._lock:
                self._busy -= 1
                self._decoded -= not is_kept
                self._start()
