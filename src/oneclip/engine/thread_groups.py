"""Rows of a batch to lanes, one for each processor, in which each part goes its whole way by itself.

Within one computation all processors meet after every operation, and all wait for the one that was delayed: by decoding
pictures, say, or by another program. Lanes meet once, at the end.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch
from torch import Tensor

Compute = Callable[[Tensor], Tensor]
T = TypeVar("T")

# bytes of one activation: beyond, glibc maps and clears fresh memory for each, which took 25 %
LARGEST = 32 * 2**20
# tokens that a processor gets to itself: with less, weights are read too often for what is done with them
LEAST = 200


def in_slices(compute: Compute, batch: Tensor, tokens: int, hidden: int) -> Tensor:
    """`compute(batch)`; on a CPU by rows, some on each processor, and so few at once that no activation is too large.

    Args:
        compute: a batch to (B, D).
        batch: B rows.
        tokens: L, of each row.
        hidden: width of the widest activation.
    """
    if batch.device.type != "cpu":
        return compute(batch)
    threads = torch.get_num_threads()
    at_once = _share(threads, min(len(batch) * tokens // LEAST, len(batch)))
    by_memory = -(-len(batch) * tokens * hidden * 4 // LARGEST)
    parts = min(-(-by_memory // at_once) * at_once, len(batch))  # so many that no lane ends before the others
    if parts <= 1:
        return compute(batch)
    return torch.cat(in_lanes(compute, batch.tensor_split(parts), at_once))


def in_lanes(compute: Callable[[T], Tensor], jobs: Sequence[T], at_once: int | None = None) -> list[Tensor]:
    """`compute` of each, in so many lanes; without a number, in one for each thread, or for each job."""
    threads = torch.get_num_threads()
    at_once = _share(threads, len(jobs)) if at_once is None else at_once
    if at_once <= 1:
        return [compute(job) for job in jobs]
    return lanes(at_once, threads // at_once).map(compute, jobs)


def _share(threads: int, jobs: int) -> int:
    """How many lanes, each with as many threads as the others: a divisor of their number, up to that of the jobs."""
    return next((count for count in range(min(threads, jobs), 1, -1) if threads % count == 0), 1)


class Lanes:
    """Threads in each of which torch computes with a share of the processors.

    Args:
        count: of lanes.
        threads: with which each computes.
    """

    def __init__(self, count: int, threads: int) -> None:
        own = torch.get_num_threads()
        started = threading.Barrier(count + 1)

        def begin() -> None:
            torch.get_num_threads()  # first, or the thread's first computation would take the usual number
            torch.set_num_threads(threads)  # of this thread, but also of all that begin after it,
            started.wait()

        self._pool = ThreadPoolExecutor(count, thread_name_prefix="oneclip-lane")
        for _ in range(count):
            self._pool.submit(begin)
        started.wait()
        torch.set_num_threads(own)  # which is taken back here

    def map(self, compute: Callable[[T], Tensor], parts: Sequence[T]) -> list[Tensor]:
        """`compute` of each part, in the gradient mode of the caller; what one raises is raised once all have ended."""
        inference = torch.is_inference_mode_enabled()

        def run(part: T) -> Tensor:
            with torch.inference_mode(inference), torch.no_grad():
                return compute(part)

        futures = [self._pool.submit(run, part) for part in parts]
        wait(futures)
        return [future.result() for future in futures]


_lock = threading.Lock()
_made: dict[tuple[int, int], Lanes] = {}


def lanes(count: int, threads: int) -> Lanes:
    """Those of this process; a fork takes no threads along, so a child makes its own."""
    found = _made.get((count, threads))
    if found is None:
        with _lock:
            found = _made.get((count, threads)) or Lanes(count, threads)
            _made[count, threads] = found
    return found


def _after_fork() -> None:
    global _lock
    _made.clear()
    _lock = threading.Lock()  # another thread of the parent may have held the old one


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
