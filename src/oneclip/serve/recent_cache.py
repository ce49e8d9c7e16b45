"""Cache of what was used last, of limited size."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class RecentCache(Generic[T]):
    """Values by key; what was not used for the longest time is dropped. Thread-safe.

    Args:
        limit: of the sum of the sizes of all values.
        size: returns the size of a value; 1 for each by default.
    """

    def __init__(self, limit: int, size: Callable[[T], int] = lambda value: 1) -> None:
        self._limit, self._size_of, self._size = limit, size, 0
        self._values: OrderedDict[Hashable, T] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> T | None:
        """Return a value, or None."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: Hashable, value: T) -> None:
        """Keep a value, unless it alone is larger than the limit."""
        with self._lock:
            if (old := self._values.pop(key, None)) is not None:
                self._size -= self._size_of(old)
            self._values[key] = value
            self._size += self._size_of(value)
            while self._size > self._limit:
                self._size -= self._size_of(self._values.popitem(last=False)[1])

    def find(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return a value, made if it is missing."""
        if (value := self.get(key)) is None:
            value = make()
            self.put(key, value)
        return value
