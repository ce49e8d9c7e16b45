"""Groups of threads on a CPU, each of which computes some rows of a batch from start to end.

Inside one computation all threads wait for each other after every operation, so a thread that was delayed (by image
decoding, or by another program) delays all. Groups wait for each other once, at the end.
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
R = TypeVar("R")

# above this size of one activation, glibc maps and clears new memory for each, which took 25 % of the time
MAX_ACTIVATION_BYTES = 32 * 2**20
# with fewer tokens for each thread, weights are read too often for the work done with them
MIN_TOKENS_PER_THREAD = 200


def run_chunked(compute: Compute, hidden: int, tokens: int | None, batch: Tensor) -> Tensor:
    """Compute `compute(batch)` on a CPU in chunks of rows, spread over groups of threads.

    Args:
        compute: a batch to (B, D).
        hidden: width of the widest activation; it limits the rows of a chunk.
        tokens: number of tokens of each row; None if rows are token ids (B, L).
        batch: B rows.
    """
    threads = torch.get_num_threads()
    tokens = batch.shape[1] if tokens is None else tokens
    groups = _group_count(threads, min(len(batch) * tokens // MIN_TOKENS_PER_THREAD, len(batch)))
    by_memory = -(-len(batch) * tokens * hidden * 4 // MAX_ACTIVATION_BYTES)
    chunks = min(-(-by_memory // groups) * groups, len(batch))  # a multiple, so that groups end together
    if chunks <= 1:
        return compute(batch)
    return torch.cat(run_in_groups(compute, batch.tensor_split(chunks), groups))


def run_in_groups(compute: Callable[[T], R], jobs: Sequence[T], groups: int | None = None) -> list[R]:
    """Compute every job, in `groups` groups of threads; None for one group for each thread or job."""
    threads = torch.get_num_threads()
    groups = _group_count(threads, len(jobs)) if groups is None else groups
    if groups <= 1:
        return list(map(compute, jobs))
    return get_thread_groups(groups, threads // groups).map(compute, jobs)


def _group_count(threads: int, jobs: int) -> int:
    """Return the number of groups: the largest divisor of the threads that is not above the number of jobs."""
    return next((count for count in range(min(threads, jobs), 1, -1) if threads % count == 0), 1)


class ThreadGroups:
    """Worker threads, in each of which torch computes with a share of the processors.

    Args:
        count: number of workers.
        threads: number of threads that torch uses in each worker.
    """

    def __init__(self, count: int, threads: int) -> None:
        own = torch.get_num_threads()
        started = threading.Barrier(count + 1)

        def start() -> None:
            torch.get_num_threads()  # torch resets the number at a thread's first call, so this comes first
            torch.set_num_threads(threads)  # it also applies to all threads that start later
            started.wait()

        self._pool = ThreadPoolExecutor(count, thread_name_prefix="oneclip-compute")
        for _ in range(count):
            self._pool.submit(start)
        started.wait()
        torch.set_num_threads(own)  # for threads that start later

    def map(self, compute: Callable[[T], R], jobs: Sequence[T]) -> list[R]:
        """Compute every job in the caller's gradient mode; an error is raised once all jobs have ended."""
        inference = torch.is_inference_mode_enabled()

        def run(job: T) -> R:
            with torch.inference_mode(inference), torch.no_grad():
                return compute(job)

        futures = [self._pool.submit(run, job) for job in jobs]
        wait(futures)
        return [future.result() for future in futures]


_lock = threading.Lock()
_groups: dict[tuple[int, int], ThreadGroups] = {}


def get_thread_groups(count: int, threads: int) -> ThreadGroups:
    """Return the groups of this process; a forked child inherits no threads and makes its own."""
    found = _groups.get((count, threads))
    if found is None:
        with _lock:
            found = _groups.get((count, threads)) or ThreadGroups(count, threads)
            _groups[count, threads] = found
    return found


def _after_fork() -> None:
    global _lock
    _groups.clear()
    _lock = threading.Lock()  # another thread of the parent may hold the old one


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
