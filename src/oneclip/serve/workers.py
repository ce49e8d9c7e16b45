"""Several processes that listen on one socket: started, replaced when they die, and stopped together."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from oneclip.errors import OneCLIPError
from oneclip.hardware import available_processors
from oneclip.serve.access_log import log_as_json
from oneclip.serve.metrics import MULTIPROCESS_VARIABLE, forget_process
from oneclip.serve.server import run_process
from oneclip.serve.settings import ServeSettings

multiprocessing.allow_connection_pickling()  # of the socket
spawn = multiprocessing.get_context("spawn")
logger = logging.getLogger(__name__)

THREADS_VARIABLE = "OMP_NUM_THREADS"  # torch reads it when it is imported
FAILED = 3  # exit code of a process that cannot load what it serves: another one could not, either
POLL_SECONDS = 0.2
PAUSE_SECONDS = 1.0  # before a process that died is replaced


def serve_with_workers(settings: ServeSettings, listening: socket.socket) -> None:
    """Serve with `settings.workers` processes until SIGTERM or SIGINT.

    The threads of torch are divided among them, and each loads the model.

    Raises:
        OneCLIPError: if the model or an index cannot be loaded.
        KeyboardInterrupt: after SIGINT.
    """
    os.environ.setdefault(THREADS_VARIABLE, str(max(1, available_processors() // settings.workers)))
    folder = tempfile.mkdtemp(prefix="oneclip-metrics-")
    os.environ[MULTIPROCESS_VARIABLE] = folder
    try:
        _Workers(settings, listening).run()
    finally:
        del os.environ[MULTIPROCESS_VARIABLE]
        shutil.rmtree(folder, ignore_errors=True)


class _Workers:
    """Processes of one server."""

    def __init__(self, settings: ServeSettings, listening: socket.socket) -> None:
        self.settings, self.listening = settings, listening
        self.failures, self._failing = spawn.Pipe(duplex=False)
        self.processes: list[SpawnProcess] = []
        self.signals: list[int] = []

    def run(self) -> None:
        """Start the processes, and return when they have ended."""
        log_as_json()
        handled = [signal.SIGTERM, signal.SIGINT] + ([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])
        before = {
            each: signal.signal(each, lambda number, _: self.signals.append(number)) for each in handled
        }
        try:
            self.processes = [self._start() for _ in range(self.settings.workers)]
            stopped_by = self._watch()
        finally:
            for each in self.processes:
                each.kill()
            for number, handler in before.items():
                signal.signal(number, handler)
        if stopped_by == signal.SIGINT:
            raise KeyboardInterrupt

    def _start(self) -> SpawnProcess:
        process = spawn.Process(target=_run_worker, args=(self.settings, self.listening, self._failing))
        process.start()
        return process

    def _watch(self) -> int | None:
        """Pass on signals, and replace processes that die, until a signal to stop arrives and all have ended.

        Returns:
            The signal that ended them.

        Raises:
            OneCLIPError: if one of them has failed.
        """
        stopped_by: int | None = None
        while self.processes:
            wait([process.sentinel for process in self.processes], timeout=POLL_SECONDS)
            while self.signals:
                number = self.signals.pop(0)
                if number in (signal.SIGTERM, signal.SIGINT):
                    if stopped_by is not None:
                        return stopped_by  # a second signal: end at once
                    stopped_by = number
                    self.listening.close()
                    number = signal.SIGTERM
                for process in self.processes:
                    _send(process, number)
            for process in [process for process in self.processes if not process.is_alive()]:
                self.processes.remove(process)
                forget_process(process.pid or 0)
                if process.exitcode == FAILED and self.failures.poll():
                    raise OneCLIPError(self.failures.recv())
                if stopped_by is None:
                    logger.error("process %s died (exit code %s)", process.pid, process.exitcode)
                    time.sleep(PAUSE_SECONDS)
                    self.processes.append(self._start())
        return stopped_by


def _send(process: SpawnProcess, number: int) -> None:
    if process.pid is not None and process.is_alive():
        os.kill(process.pid, number)


def _run_worker(settings: ServeSettings, listening: socket.socket, failing: Connection) -> None:
    """Serve in a process of its own, which also ends when its parent is gone."""
    threading.Thread(target=_follow_parent, daemon=True).start()
    try:
        run_process(settings, [listening], is_worker=True)
    except OneCLIPError as error:
        failing.send(str(error))
        os._exit(FAILED)


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
