"""Cache of what was used last, of limited size."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")

OVERHEAD = 2048  # bytes of the objects around the numbers of a value, so that empty ones take memory, too


class RecentCache(Generic[T]):
    """Values by key; what was not used for the longest time is dropped. Thread-safe.

    Of a key, which may be a long text of a client, only a digest is kept.

    Args:
        limit: number of values, or bytes of all of them.
        bytes_of: returns the bytes of what a value holds; None if `limit` is a number of values.
    """

    def __init__(self, limit: int, bytes_of: Callable[[T], int] | None = None) -> None:
        self._limit, self._bytes_of, self._size = limit, bytes_of, 0
        self._values: OrderedDict[bytes, T] = OrderedDict()
        self._lock = threading.Lock()

    def _size_of(self, value: T) -> int:
        return 1 if self._bytes_of is None else OVERHEAD + self._bytes_of(value)

    def get(self, key: Hashable) -> T | None:
        """Return a value, or None.

        Args:
            key: of strings, bytes, numbers, None, and tuples of them.
        """
        return self._get(_digest(key))

    def _get(self, key: bytes) -> T | None:
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: Hashable, value: T) -> None:
        """Keep a value, unless it alone is larger than the limit."""
        self._put(_digest(key), value)

    def _put(self, key: bytes, value: T) -> None:
        with self._lock:
            if (old := self._values.pop(key, None)) is not None:
                self._size -= self._size_of(old)
            if (size := self._size_of(value)) > self._limit:
                return
            self._values[key] = value
            self._size += size
            while self._size > self._limit:
                self._size -= self._size_of(self._values.popitem(last=False)[1])

    def find(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return a value, made if it is missing."""
        digest = _digest(key)
        if (value := self._get(digest)) is None:
            value = make()
            self._put(digest, value)
        return value


def _digest(key: Hashable) -> bytes:
    return hashlib.blake2b(repr(key).encode(errors="surrogatepass"), digest_size=16).digest()
