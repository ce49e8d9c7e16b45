"""Run the server: listen, answer, and stop without losing a request."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import uvicorn

from oneclip.errors import ConfigError
from oneclip.hardware import available_processors
from oneclip.serve.access_log import log_as_json
from oneclip.serve.api_keys import ApiKeys
from oneclip.serve.http_protocol import limited_protocol
from oneclip.serve.indexes import indexed_model
from oneclip.serve.settings import ServeSettings

if TYPE_CHECKING:
    from oneclip.serve.state import ServerState

BACKLOG = 2048
M_ARENA_MAX = -8  # of glibc's malloc.h
IDLE_SECONDS = 75  # for which a connection is kept open between requests: longer than proxies do


def serve(settings: ServeSettings, announce: Callable[[str], object]) -> None:
    """Serve until SIGTERM or SIGINT. What was accepted by then is answered, within `timeout`; a second ends at once.

    Args:
        settings: of the server.
        announce: is called with a line that says where the server listens, as soon as it does.

    Raises:
        ConfigError: if it cannot listen there, or the keys cannot be read.
        DataError: for a folder without images.
        OneCLIPError: if the model or an index cannot be loaded.
        KeyboardInterrupt: after SIGINT.
    """
    if settings.api_key_file is not None:
        ApiKeys(settings.api_key_file)  # raises
    indexed_model(settings)  # likewise, for a folder without images, or a damaged index
    listening = open_socket(settings.host, settings.port)
    handle_early_signals()
    host, port = listening.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    if settings.workers > 1:
        from oneclip.serve.workers import serve_with_workers

        announce(f"listening on {url} with {settings.workers} processes")
        serve_with_workers(settings, listening)
        return
    announce(f"listening on {url}")
    if run_process(settings, [listening]) == signal.SIGINT:
        raise KeyboardInterrupt


def open_socket(host: str, port: int) -> socket.socket:
    """Listen on an address.

    Raises:
        ConfigError: if that is not possible.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except socket.gaierror as error:
        raise ConfigError(f"host {host!r} is not an address of this machine: {error.strerror}") from error
    except OSError as error:
        reasons = {
            errno.EADDRINUSE: "the port is in use; --port 0 takes any free one",
            errno.EADDRNOTAVAIL: f"{host} is not an address of this machine",
            errno.EACCES: f"port {port} needs rights that this process lacks; take one from 1024 on",
        }
        reason = reasons.get(error.errno or 0, error.strerror)
        raise ConfigError(f"cannot listen on {host}, port {port}: {reason}") from error


def handle_early_signals() -> None:
    """Let SIGTERM end this process as if it had served, and SIGHUP do nothing, until it serves."""
    signal.signal(signal.SIGTERM, lambda *_: _end_at_once(0))
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


def run_process(
    settings: ServeSettings, sockets: Sequence[socket.socket], *, is_worker: bool = False
) -> int | None:
    """Serve in this process, which must be in its main thread.

    Returns:
        The signal that ended it.

    Raises:
        OneCLIPError: if the model or an index cannot be loaded.
    """
    handle_early_signals()
    log_as_json()
    _share_heaps()
    from oneclip.serve.app import create_app  # imports torch: seconds in which the socket already listens

    app = create_app(settings, in_background=True)
    state: ServerState = app.state.server
    config = uvicorn.Config(
        app,
        http=limited_protocol(settings),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=settings.timeout,  # type: ignore[arg-type]  # any number works
    )
    server = _Server(config, state, is_worker=is_worker)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, lambda *_: None if state.keys is None else state.keys.reload())
    server.run(list(sockets))
    if state.failure is not None:
        raise state.failure
    if state.embedder is None:  # a thread still loads the model, and would fail once the interpreter ends
        _end_at_once(128 + signal.SIGINT if server.stopped_by == signal.SIGINT else 0)
    return server.stopped_by


class _Server(uvicorn.Server):
    """Server that refuses new requests after a signal to stop, and stops at once after a second one."""

    def __init__(self, config: uvicorn.Config, state: ServerState, *, is_worker: bool) -> None:
        super().__init__(config)
        self._state, self._is_worker = state, is_worker
        self.stopped_by: int | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop."""
        if (
            self._is_worker and sig == signal.SIGINT
        ):  # a terminal sends it to all processes; the first one decides
            return
        if self.should_exit:
            _end_at_once(128 + sig)
        self.stopped_by, self.should_exit = sig, True
        self._state.is_draining = True
        last = threading.Timer(self._state.settings.timeout + 1, _end_at_once, (0,))
        last.daemon = True
        last.start()

    async def on_tick(self, counter: int) -> bool:
        """Return whether to stop; is called ten times in a second."""
        return await super().on_tick(counter) or self._state.failure is not None

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what was accepted, and refuse what has connected: to close its queue would reset its connections."""
        waiting: list[socket.socket] = []
        for listening in sockets or ():
            listening.setblocking(False)
            with contextlib.suppress(OSError):  # BlockingIOError: no more
                while True:
                    waiting.append(listening.accept()[0])
        for server in self.servers:
            server.close()
        for listening in sockets or ():
            listening.close()
        loop = asyncio.get_running_loop()
        for connection in waiting:
            connection.setblocking(False)
            await loop.connect_accepted_socket(self._make_protocol, connection)
        await super().shutdown(sockets)

    def _make_protocol(self) -> asyncio.Protocol:
        protocol = self.config.http_protocol_class
        return protocol(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )


def _share_heaps() -> None:
    """Let glibc use as many heaps as there are processors, not eight times as many.

    A thread keeps to its heap, and what is free in one is of no use to threads of the others: the memory of a server
    whose threads decode images of all sizes would go on growing.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, max(2, available_processors()))


def _end_at_once(code: int) -> NoReturn:
    sys.stderr.flush()
    os._exit(code)
