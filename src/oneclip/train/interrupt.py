"""Ctrl-C, or a cluster that wants its machine back, to a request that the loop reads between steps."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any


class Interrupt:
    """While entered, the first SIGINT or SIGTERM sets `requested` and the second raises KeyboardInterrupt.

    Off the main thread, where Python delivers no signals, it does nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[signal.Signals, Any] = {}
        self._is_immediate = False

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def immediate(self) -> Iterator[None]:
        """A stretch that may end anywhere, such as an evaluation: a SIGINT ends it at once."""
        self._is_immediate = True
        try:
            yield
        except KeyboardInterrupt:
            self.requested = True
        finally:
            self._is_immediate = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested or self._is_immediate:
            raise KeyboardInterrupt
        self.requested = True
