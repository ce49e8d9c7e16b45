"""Processes that make batches ahead, for machines with many cores: each makes whole ones, with threads of its own.

Tensors come back through shared memory. Processes are spawned, so a script that asks for them has its own work under
`if __name__ == "__main__":`, as all that start processes must.
"""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process

import torch

from oneclip.errors import ConfigError, DataError
from oneclip.train.data.batch_reader import Made, Reader

_AHEAD = 2  # batches in the making or waiting, for each process

_state: tuple[Reader, ThreadPoolExecutor] | None = None  # of a worker process


class Workers:
    """Makes batches in other processes, also those after the one that is asked for.

    Args:
        reader: is sent to each of them.
        count: how many processes.
        threads: of each.
    """

    def __init__(self, reader: Reader, count: int, threads: int) -> None:
        self._ahead = _AHEAD * count
        self._pool = ProcessPoolExecutor(
            count, mp_context=get_context("spawn"), initializer=_begin, initargs=(reader, threads)
        )
        self._lock = threading.Lock()
        self._waiting: dict[int, Future[Made]] = {}

    def make(self, step: int) -> Made:
        """Batch `step`; those after it are put in the making.

        Raises:
            ConfigError: if the processes cannot start.
            DataError: if one of them died.
        """
        try:
            with self._lock:
                for ahead in range(step, step + self._ahead):
                    if ahead not in self._waiting:
                        self._waiting[ahead] = self._pool.submit(_make, ahead)
                future = self._waiting.pop(step)
                for past in [s for s in self._waiting if abs(s - step) > 2 * self._ahead]:
                    self._waiting.pop(past).cancel()  # of before a jump
            return future.result()
        except BrokenProcessPool as error:
            raise DataError(
                "a process that makes batches died: out of memory, or the script lacks the guard "
                "`if __name__ == '__main__':`. Use fewer of them, or none (workers=0)"
            ) from error
        except (AttributeError, TypeError) as error:
            if "pickle" not in str(error):
                raise
            raise ConfigError(
                f"data or transform cannot be sent to a process ({error}); use workers=0"
            ) from error

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown(cancel_futures=True)


def _begin(reader: Reader, threads: int) -> None:
    global _state
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that trains; it ends this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _state = (reader, ThreadPoolExecutor(threads, thread_name_prefix="oneclip-picture"))


def _end_with_parent() -> None:
    """Where a training is killed, its processes would wait for it without end."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _make(step: int) -> Made:
    assert _state is not None  # set by _begin
    return _state[0].make(step, _state[1])
