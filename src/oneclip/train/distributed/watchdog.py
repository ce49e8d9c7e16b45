"""Watchdog: end a training that has stalled, and report what every rank was doing.

A thread of each rank checks the time. Ranks exchange heartbeats through small files in the folder of the run, because
a rank that waits for another one hangs in an exchange of tensors.
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

from oneclip.train.distributed.heartbeat import Heartbeat, HeartbeatDir, stall_message

LONG_PHASES = ("evaluation", "checkpoint")  # no step finishes during these
LONG_PHASE_FACTOR = 10  # a long phase may take so many times `stall_seconds`
STALL_EXIT_CODE = 1
CHECKS_PER_LIMIT = 20  # checks within `stall_seconds`
MAX_CHECK_SECONDS = 10.0  # between two checks


class _Phase(NamedTuple):
    name: str
    step: int
    since: float  # on the monotonic clock


class Watchdog:
    """Context manager that ends the process on every rank if the training makes no progress for too long.

    The main thread may hang where no exception reaches it, such as an exchange with a rank that is gone. Therefore the
    process exits at once with code `STALL_EXIT_CODE`, after writing the stacks of all threads to `stalled-rank-N.txt`
    and passing `on_stall` a message that names the ranks furthest behind. Everything after the last checkpoint is lost.

    A rank counts as stalled when neither a step nor a phase of `LONG_PHASES` was finished for `stall_seconds`; within
    such a phase, when it takes `LONG_PHASE_FACTOR` times that. The training has stalled when every rank is stalled or
    silent for that long, so ranks that wait for a long evaluation of another rank keep waiting. If the main thread
    holds Python's lock, in a broken extension for example, only other ranks can detect that.

    Args:
        out: folder of the run, visible to all ranks. Without it nothing is written, and each rank checks itself only.
        rank, world_size: of the training.
        stall_seconds: see above; 0 disables the watchdog.
        on_stall: called with the message, from the thread of the watchdog; prints to stderr by default.
    """

    def __init__(
        self,
        out: Path | None,
        rank: int = 0,
        world_size: int = 1,
        stall_seconds: float = 600.0,
        *,
        on_stall: Callable[[str], None] | None = None,
    ) -> None:
        self._out, self._rank, self._world_size = out, rank, world_size
        self._limit = stall_seconds
        self._check_seconds = min(stall_seconds / CHECKS_PER_LIMIT, MAX_CHECK_SECONDS)
        self._on_stall = on_stall if on_stall is not None else _write_stderr
        self._heartbeats: HeartbeatDir | None = None
        if out is not None and world_size > 1:
            self._heartbeats = HeartbeatDir(out / ".watch", rank, world_size)
        self._phase = _Phase("between steps", 0, time.monotonic())
        self._last_progress = time.monotonic()
        self._exit_reason = ""
        self._has_started = False
        self._leave = threading.Event()
        self._thread: threading.Thread | None = None
        self._training_thread = threading.get_ident()

    # ---------------------------------------------------------------- for the loop: no locks, no system calls

    @contextlib.contextmanager
    def phase(self, name: str, step: int) -> Iterator[None]:
        """Mark a phase of the loop: "waiting for data", "forward", "backward", "optimizer", or one of `LONG_PHASES`.

        Args:
            name: what happens in it.
            step: steps finished before.
        """
        before, self._phase = self._phase, _Phase(name, step, time.monotonic())
        try:
            yield
        finally:
            now = time.monotonic()
            if name in LONG_PHASES:
                self._last_progress = now
            self._phase = _Phase(before.name, max(step, before.step), now)

    def step_done(self, step: int) -> None:
        """Record that `step` steps are finished."""
        self._last_progress = now = time.monotonic()
        self._phase = _Phase("between steps", step, now)

    # ---------------------------------------------------------------- start and end

    def __enter__(self) -> Watchdog:
        if self._limit <= 0:
            return self
        self._training_thread = threading.get_ident()
        self._phase = self._phase._replace(since=time.monotonic())
        self._last_progress, self._exit_reason = time.monotonic(), ""
        self._leave.clear()
        if self._out is not None:
            with contextlib.suppress(OSError):
                self._stacks_file().unlink(missing_ok=True)
        if self._heartbeats is not None:
            self._heartbeats.clear()
            self._heartbeats.write(self._heartbeat(0))
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()
        if self._heartbeats is not None and dist.is_initialized():
            dist.barrier()  # after this, no heartbeat of an earlier run is left
        self._has_started = self._heartbeats is not None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is None:
            return
        self._exit_reason = "done" if error is None else f"ended by {type(error).__name__}: {error}"[:300]
        self._leave.set()
        # In a stalled training, the exit of another rank may break an exchange, and the main thread gets here.
        # The watchdog thread then still has to write its report, and ends the process.
        self._thread.join()
        self._thread = None

    def _watch(self) -> None:
        count = 0
        while not self._leave.wait(self._check_seconds):
            count += 1
            message = self._check(count)
            if message is not None:
                self._end(message, count)
        if self._heartbeats is not None:
            self._heartbeats.leave(self._heartbeat(count + 1))

    # ---------------------------------------------------------------- detection

    def _check(self, count: int) -> str | None:
        """Return a message if the training has stalled."""
        own = self._heartbeat(count)
        if self._heartbeats is None or not self._has_started:
            return stall_message([own], self._limit, self._out) if own.is_overdue else None
        self._heartbeats.write(own)
        reported = self._heartbeats.stall_report()
        if reported is not None or not own.is_overdue:
            return reported
        all_ranks = self._heartbeats.read(own)
        if any(beat.is_on_time(self._limit) for beat in all_ranks):
            return None
        # meanwhile the rank that all waited for may have gone on to the end, and this one with it
        if not self._heartbeat(count).is_overdue:
            return None
        return self._heartbeats.report_stall(stall_message(all_ranks, self._limit, self._out))

    def _heartbeat(self, count: int, *, stacks_written: bool = False) -> Heartbeat:
        phase, now = self._phase, time.monotonic()
        if phase.name in LONG_PHASES:
            is_overdue = now - phase.since > LONG_PHASE_FACTOR * self._limit
        else:
            is_overdue = now - self._last_progress > self._limit
        return Heartbeat(
            rank=self._rank,
            count=count,
            phase=phase.name,
            step=phase.step,
            seconds=now - phase.since,
            is_overdue=is_overdue,
            exit_reason=self._exit_reason,
            stacks_written=stacks_written,
        )

    def _end(self, message: str, count: int) -> None:
        """Write the report, wait for the reports of the other ranks, and end the process."""
        heartbeat = self._heartbeat(count + 1, stacks_written=True)
        if self._out is not None:
            with contextlib.suppress(OSError):  # a full disk must not prevent the exit
                self._stacks_file().write_text(
                    f"{message}\n\n{heartbeat.describe(self._limit)}\n\n{self._stacks()}", encoding="utf-8"
                )
        if self._heartbeats is not None:
            self._heartbeats.write(heartbeat)
            self._heartbeats.wait_for_stacks(heartbeat, 2 * self._check_seconds + 5.0, self._limit)
        self._on_stall(message)
        os._exit(STALL_EXIT_CODE)

    def _stacks_file(self) -> Path:
        assert self._out is not None
        return self._out / f"stalled-rank-{self._rank}.txt"

    def _stacks(self) -> str:
        """Format the stacks of all threads of this process, the training thread first."""
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        frames = sys._current_frames()
        frames.pop(threading.get_ident(), None)
        order = sorted(frames, key=lambda ident: ident != self._training_thread)
        return "\n".join(
            f"thread {names.get(ident, ident)}{' (training)' if ident == self._training_thread else ''}:\n"
            + "".join(traceback.format_stack(frames[ident]))
            for ident in order
        )


def _write_stderr(message: str) -> None:
    # A library does not print, but here no caller is left to catch an error. This bypasses sys.stderr, because the
    # thread that hangs may hold its lock.
    with contextlib.suppress(OSError):
        os.write(2, f"error: {message}\n".encode())
