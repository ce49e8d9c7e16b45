"""Workers that read batches: threads of this process, or processes that prefetch.

On a machine with many cores each process reads whole batches with threads of its own, and tensors come back through
shared memory. Processes are spawned, so a script that uses them needs the guard `if __name__ == "__main__":`.
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
from oneclip.train.data.batch_reader import BatchReader, LoadedBatch

_DEPTH = 2  # batches being read or waiting, per process

_state: tuple[BatchReader, ThreadPoolExecutor] | None = None  # of a worker process


class ThreadWorkers:
    """Reads batches in threads of this process.

    Args:
        reader: reads one batch.
        threads: how many read and decode.
    """

    def __init__(self, reader: BatchReader, threads: int) -> None:
        self._reader = reader
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="oneclip-image")

    def read(self, step: int) -> LoadedBatch:
        """Read batch `step`."""
        return self._reader.read(step, self._pool)

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(cancel_futures=True)


class ProcessWorkers:
    """Reads batches in other processes, and prefetches the next ones.

    Args:
        reader: reads one batch; it is sent to every process.
        count: number of processes.
        threads: per process.
    """

    def __init__(self, reader: BatchReader, count: int, threads: int) -> None:
        self._depth = _DEPTH * count
        self._pool = ProcessPoolExecutor(
            count, mp_context=get_context("spawn"), initializer=_start_worker, initargs=(reader, threads)
        )
        self._lock = threading.Lock()
        self._waiting: dict[int, Future[LoadedBatch]] = {}

    def read(self, step: int) -> LoadedBatch:
        """Return batch `step`, and start reading the ones after it.

        Raises:
            ConfigError: if the processes cannot start.
            DataError: if one of them died.
        """
        try:
            with self._lock:
                for ahead in range(step, step + self._depth):
                    if ahead not in self._waiting:
                        self._waiting[ahead] = self._pool.submit(_read_in_worker, ahead)
                future = self._waiting.pop(step)
                for stale in [s for s in self._waiting if abs(s - step) > 2 * self._depth]:
                    self._waiting.pop(stale).cancel()  # left from before a jump to another step
            return future.result()
        except BrokenProcessPool as error:
            raise DataError(
                "a worker process died: it ran out of memory, or the script lacks the guard "
                "`if __name__ == '__main__':`. Use fewer worker processes, or none (workers=0)"
            ) from error
        except (AttributeError, TypeError) as error:
            if "pickle" not in str(error):
                raise
            raise ConfigError(
                f"the dataset or the transform cannot be sent to a worker process ({error}); use workers=0"
            ) from error

    def close(self) -> None:
        """Stop the processes."""
        self._pool.shutdown(cancel_futures=True)


def _start_worker(reader: BatchReader, threads: int) -> None:
    global _state
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is handled by the training process, which ends this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _state = (reader, ThreadPoolExecutor(threads, thread_name_prefix="oneclip-image"))


def _end_with_parent() -> None:
    """Exit when the training process is gone; otherwise the workers of a killed training would wait forever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _read_in_worker(step: int) -> LoadedBatch:
    assert _state is not None  # set by _start_worker
    return _state[0].read(step, _state[1])
