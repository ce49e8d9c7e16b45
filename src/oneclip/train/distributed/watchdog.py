"""A training that no longer goes on to an end that says what every rank was doing.

A thread of each rank looks at a clock. Ranks tell each other where they are through small files in the folder of
the run, because exchanges of tensors are what a rank that waits for another hangs in.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import torch.distributed as dist

from oneclip.train.distributed.heartbeat import Board, Post, stall_message

LONG = ("evaluation", "checkpoint")  # phases that no step comes out of
LONGER = 10  # times as long as a step may such a phase take
STALLED = 1  # exit code
LOOKS = 20  # at the clock, in the time that a step may take
RAREST = 10.0  # seconds between two looks, at most


class _Doing(NamedTuple):
    phase: str
    step: int
    since: float  # on the monotonic clock


class Watchdog:
    """While entered, ends the process if no step is done for too long, on every rank that waits for it.

    The main thread may hang in a place that no exception reaches, such as an exchange with a rank that is gone. So
    the process ends at once with code `STALLED`, after writing `stalled-rank-N.txt` with where every thread stood,
    and `tell` gets the message, which names the ranks that are furthest behind. All that is later than the last
    checkpoint is lost.

    A rank counts as stalled when neither a step nor a phase of `LONG` was completed for `stall_seconds`; in such
    a phase itself, when it takes `LONGER` times that. The run has stalled when all ranks have, or are silent for as
    long: who waits for a long evaluation elsewhere waits on. A main thread that keeps Python's lock, in a broken
    extension, say, is seen by other ranks only.

    Args:
        out: folder of the run, which all ranks see. Without it nothing is written, and each rank judges by itself.
        rank, world_size: of the training.
        stall_seconds: as above; 0 switches the watchdog off.
        tell: is called with the message, from the thread that watches.
    """

    def __init__(
        self,
        out: Path | None,
        rank: int = 0,
        world_size: int = 1,
        stall_seconds: float = 600.0,
        *,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self._out, self._rank, self._world_size = out, rank, world_size
        self._limit, self._tick = stall_seconds, min(stall_seconds / LOOKS, RAREST)
        self._tell = tell if tell is not None else _to_stderr
        self._board = Board(out / ".watch", rank, world_size) if out is not None and world_size > 1 else None
        self._doing = _Doing("between steps", 0, time.monotonic())
        self._progress = time.monotonic()
        self._ended = ""
        self._is_among_others = False
        self._leave = threading.Event()
        self._thread: threading.Thread | None = None
        self._watched = threading.get_ident()

    # ---------------------------------------------------------------- for the loop: no locks, no system calls

    @contextlib.contextmanager
    def doing(self, phase: str, step: int) -> Iterator[None]:
        """A stretch of the loop: "waiting for data", "forward", "backward", "optimizer", or one of `LONG`.

        Args:
            phase: what happens in it.
            step: steps done before.
        """
        before, self._doing = self._doing, _Doing(phase, step, time.monotonic())
        try:
            yield
        finally:
            now = time.monotonic()
            if phase in LONG:
                self._progress = now
            self._doing = _Doing(before.phase, max(step, before.step), now)

    def stepped(self, step: int) -> None:
        """Another step is done, `step` in all."""
        self._progress = now = time.monotonic()
        self._doing = _Doing("between steps", step, now)

    # ---------------------------------------------------------------- its life

    def __enter__(self) -> Watchdog:
        if self._limit <= 0:
            return self
        self._watched = threading.get_ident()
        self._doing = self._doing._replace(since=time.monotonic())
        self._progress, self._ended = time.monotonic(), ""
        self._leave.clear()
        if self._out is not None:
            with contextlib.suppress(OSError):
                self._file().unlink(missing_ok=True)
        if self._board is not None:
            self._board.clear()
            self._board.write(self._post(0))
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()
        if self._board is not None and dist.is_initialized():
            dist.barrier()  # what an earlier run left on the board is gone from here on
        self._is_among_others = self._board is not None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is None:
            return
        self._ended = "done" if error is None else f"ended by {type(error).__name__}: {error}"[:300]
        self._leave.set()
        # if the run has stalled, this is where an exchange that the end of another rank broke off comes out:
        # the thread then still has to write, and ends the process
        self._thread.join()
        self._thread = None

    def _watch(self) -> None:
        beat = 0
        while not self._leave.wait(self._tick):
            beat += 1
            message = self._judge(beat)
            if message is not None:
                self._end(message, beat)
        if self._board is not None:
            self._board.leave(self._post(beat + 1))

    # ---------------------------------------------------------------- the judgement

    def _judge(self, beat: int) -> str | None:
        """What is to be said if the run has stalled, else None."""
        own = self._post(beat)
        if self._board is None or not self._is_among_others:
            return stall_message([own], self._limit, self._out) if own.is_overdue else None
        self._board.write(own)
        said = self._board.verdict()
        if said is not None or not own.is_overdue:
            return said
        posts = self._board.read(own)
        if any(post.is_going_on(self._limit) for post in posts):
            return None
        return self._board.decide(stall_message(posts, self._limit, self._out))

    def _post(self, beat: int, *, has_written: bool = False) -> Post:
        doing, now = self._doing, time.monotonic()
        if doing.phase in LONG:
            is_overdue = now - doing.since > LONGER * self._limit
        else:
            is_overdue = now - self._progress > self._limit
        return Post(
            rank=self._rank,
            beat=beat,
            phase=doing.phase,
            step=doing.step,
            seconds=now - doing.since,
            is_overdue=is_overdue,
            ended=self._ended,
            has_written=has_written,
        )

    def _end(self, message: str, beat: int) -> None:
        """Write, wait until the others have written, say it and end the process."""
        post = self._post(beat + 1, has_written=True)
        if self._out is not None:
            with contextlib.suppress(OSError):  # a full disk must not keep this from ending
                self._file().write_text(
                    f"{message}\n\n{post.told(self._limit)}\n\n{self._stacks()}", encoding="utf-8"
                )
        if self._board is not None:
            self._board.write(post)
            self._board.wait_for_others(post, 2 * self._tick + 5.0, self._limit)
        self._tell(message)
        os._exit(STALLED)

    def _file(self) -> Path:
        assert self._out is not None
        return self._out / f"stalled-rank-{self._rank}.txt"

    def _stacks(self) -> str:
        """Where every thread of this process stands, the one that trains first."""
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        frames = sys._current_frames()
        frames.pop(threading.get_ident(), None)
        order = sorted(frames, key=lambda ident: ident != self._watched)
        return "\n".join(
            f"thread {names.get(ident, ident)}{' (trains)' if ident == self._watched else ''}:\n"
            + "".join(traceback.format_stack(frames[ident]))
            for ident in order
        )


def _to_stderr(message: str) -> None:
    # libraries print nothing, but here nobody is left to catch an error; past Python's own stream, because the
    # thread that hangs may hold its lock
    with contextlib.suppress(OSError):
        os.write(2, f"error: {message}\n".encode())
