"""Handling of Ctrl-C and SIGTERM: a flag that the training loop reads between steps."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any


class Interrupt:
    """Context in which the first SIGINT or SIGTERM sets `requested`, and the second raises KeyboardInterrupt.

    Does nothing outside the main thread, because Python delivers no signals there.
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
        """Let a SIGINT end the block at once, for work such as an evaluation that can stop anywhere."""
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
