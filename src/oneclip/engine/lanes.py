"""Rows of a batch to lanes, one for each processor, in which each part goes its whole way by itself.

Within one computation all processors meet after every operation, and all wait for the one that was delayed: by decoding
pictures, say, or by another program. Lanes meet once, at the end.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait

import torch
from torch import Tensor

Compute = Callable[[Tensor], Tensor]

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
    at_once = max(1, min(threads, len(batch) * tokens // LEAST, len(batch)))
    by_memory = -(-len(batch) * tokens * hidden * 4 // LARGEST)
    parts = min(-(-by_memory // at_once) * at_once, len(batch))  # so many that no lane ends before the others
    if parts <= 1:
        return compute(batch)
    slices = batch.tensor_split(parts)
    if at_once == 1:
        return torch.cat([compute(rows) for rows in slices])
    return torch.cat(lanes(at_once, threads // at_once).map(compute, slices))


class Lanes:
    """Threads in each of which torch computes with a share of the processors.

    Args:
        count: of lanes.
        threads: with which each computes.
    """

    def __init__(self, count: int, threads: int) -> None:
        own = torch.get_num_threads()
        self.made_for = os.getpid(), count, threads
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

    def map(self, compute: Compute, parts: Sequence[Tensor]) -> list[Tensor]:
        """`compute` of each part, in the gradient mode of the caller; what one raises is raised once all have ended."""
        inference = torch.is_inference_mode_enabled()

        def run(part: Tensor) -> Tensor:
            with torch.inference_mode(inference), torch.no_grad():
                return compute(part)

        futures = [self._pool.submit(run, part) for part in parts]
        wait(futures)
        return [future.result() for future in futures]

    def close(self) -> None:
        """Let the threads end once they have nothing to do."""
        self._pool.shutdown(wait=False)


_lock = threading.Lock()
_lanes: Lanes | None = None


def lanes(count: int, threads: int) -> Lanes:
    """Those of this process; made anew after a fork, which takes no threads along, and for other numbers."""
    global _lanes
    wanted = os.getpid(), count, threads
    found = _lanes
    if found is not None and found.made_for == wanted:
        return found
    with _lock:
        if _lanes is None or _lanes.made_for != wanted:
            if _lanes is not None and _lanes.made_for[0] == wanted[0]:
                _lanes.close()
            _lanes = Lanes(count, threads)
        return _lanes


def _after_fork() -> None:
    global _lanes, _lock
    _lanes, _lock = None, threading.Lock()  # another thread of the parent may have held the old one


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
