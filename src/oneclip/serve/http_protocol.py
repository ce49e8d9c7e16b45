"""HTTP protocol of uvicorn with the limits that it lacks: the size of headers, and the time of each step."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from oneclip.serve.errors import RequestError
from oneclip.serve.settings import ServeSettings

MAX_HEADER_BYTES = 65_536
IDLE_GRACE_SECONDS = 0.5
LINGER_SECONDS = 5.0


class LimitedProtocol(HttpToolsProtocol):
    """Protocol that closes connections of clients that are too slow, or send headers without end.

    A request must arrive within twice `timeout`, its headers within `timeout`; an answer must be read by then, too.
    When the server stops, idle connections stay open for a moment: a request on its way finds an answer (503).

    A connection that is closed before the whole request was read first lets the client read the answer: to close it at
    once would reset it, and discard what the client has not read.
    """

    settings: ServeSettings  # set by `limited_protocol`

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._deadline = _Deadline(self.loop)  # of the request
        self._read_deadline = _Deadline(self.loop)  # of the client that reads the answer
        self._is_in_request, self._is_in_headers, self._is_lingering = False, True, False
        self._received = 0  # bytes of this request
        self._header_bytes = 0
        self._refusal: RequestError | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        self._socket = transport
        super().connection_made(cast(asyncio.Transport, _LingeringTransport(transport, self)))
        self._deadline.set(self.settings.timeout, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """End all waiting."""
        self._deadline.clear()
        self._read_deadline.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take a part of a request."""
        if self._is_lingering:
            return
        self._received += len(data)
        # chunked bodies and what follows them have no length: with chunks of some bytes they are twice as long at most
        limit = MAX_HEADER_BYTES if self._is_in_headers else MAX_HEADER_BYTES + 4 * self.settings.max_body
        is_in_headers = self._is_in_headers
        if is_in_headers and not self._deadline.is_set:
            self._deadline.set(self.settings.timeout, self._socket.abort)
        super().data_received(data)
        if (
            self._received > limit
            and not self.transport.is_closing()
            and is_in_headers == self._is_in_headers
        ):
            self._refuse_size()
            self.send_400_response("")

    def on_message_begin(self) -> None:
        """Begin with the headers of a request."""
        super().on_message_begin()
        self._is_in_request, self._is_in_headers, self._header_bytes = True, True, 0
        self._deadline.set(self.settings.timeout, self._socket.abort)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > MAX_HEADER_BYTES:
            self._refuse_size()
            raise httptools.HttpParserError("headers are too large")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Go on to the body."""
        self._is_in_headers = False
        self._deadline.set(2 * self.settings.timeout, self._socket.abort)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Have the whole request."""
        self._is_in_request, self._is_in_headers, self._received = False, True, 0
        self._deadline.clear()
        super().on_message_complete()

    def pause_writing(self) -> None:
        """Wait for a client that does not read its answer, but not for ever."""
        super().pause_writing()
        self._read_deadline.set(self.settings.timeout, self._socket.abort)

    def resume_writing(self) -> None:
        """Go on: the client reads."""
        super().resume_writing()
        self._read_deadline.clear()

    def shutdown(self) -> None:
        """Close the connection once it is idle; if it is, in a moment."""
        if self.cycle is None or self.cycle.response_complete:
            close = super().shutdown
            # in two steps: after a pause, a loop may call what is due before it reads what has come meanwhile
            self.loop.call_later(IDLE_GRACE_SECONDS, self.loop.call_later, IDLE_GRACE_SECONDS / 10, close)
        else:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP, in the shape of all errors, and close the connection."""
        error = self._refusal or RequestError(400, "the request is not HTTP/1.1", code="invalid_http")
        body = bytes(error.response().body)
        self._is_in_request = True
        self.transport.write(
            STATUS_LINE[error.status]
            + b"content-type: application/json\r\nconnection: close\r\n"
            + b"content-length: %d\r\n\r\n" % len(body)
            + body
        )
        self.transport.close()

    def close_after_answer(self) -> None:
        """Close the connection; if the client still sends its request, once it has stopped, or after a while."""
        if not self._is_in_request:
            self._socket.close()
        elif not self._is_lingering:
            self._is_lingering = True
            self._socket.write_eof()
            self._socket.resume_reading()  # to discard it
            self._deadline.set(LINGER_SECONDS, self._socket.abort)

    @property
    def is_closing(self) -> bool:
        """Whether no further request is read."""
        return self._is_lingering or self._socket.is_closing()

    def _refuse_size(self) -> None:
        if self._is_in_headers:
            self._refusal = RequestError(
                431, f"the headers have more than {MAX_HEADER_BYTES:,} bytes", code="headers_too_large"
            )
        else:
            self._refusal = RequestError(413, "the body does not end", code="body_too_large")


class _LingeringTransport:
    """Transport that the protocol closes in its own way."""

    def __init__(self, transport: asyncio.Transport, protocol: LimitedProtocol) -> None:
        self._transport, self._protocol = transport, protocol

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def close(self) -> None:
        self._protocol.close_after_answer()

    def is_closing(self) -> bool:
        return self._protocol.is_closing


class _Deadline:
    """Timer of which one call is pending at most."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._handle: asyncio.TimerHandle | None = None

    @property
    def is_set(self) -> bool:
        return self._handle is not None

    def set(self, seconds: float, callback: Callable[[], None]) -> None:
        self.clear()
        self._handle = self._loop.call_later(seconds, callback)

    def clear(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


def limited_protocol(settings: ServeSettings) -> type[LimitedProtocol]:
    """Return the protocol with the limits of a server."""
    return type("Protocol", (LimitedProtocol,), {"settings": settings})
