"""HTTP/1.1 over a plain socket, so that a client may also send what is not HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import httpx

LIMIT = 2**24  # bytes of an answer
HOST = "127.0.0.1"
CLOSED = 0  # in place of a status: the server closed the connection without an answer


class Answer(NamedTuple):
    """Answer of the server.

    Attributes:
        status: HTTP status, or CLOSED.
        headers: with names in lower case.
        body: of the answer.
    """

    status: int
    headers: Mapping[str, str] = MappingProxyType({})
    body: bytes = b""


def encode(method: str, path: str, headers: Sequence[tuple[str, str]] = (), **body: Any) -> bytes:
    """Return a request as it is sent.

    Args:
        method, path: of the request.
        headers: besides those that follow from the body.
        body: `content`, `json`, or `data` and `files`, as of `httpx.Request`.
    """
    request = httpx.Request(method, f"http://{HOST}{path}", headers=list(headers), **body)
    content = request.read()
    head = [request.method.encode() + b" " + request.url.raw_path + b" HTTP/1.1"]
    head += [name + b": " + value for name, value in request.headers.raw]
    return b"\r\n".join([*head, b"", content])


class Connection:
    """Connection of a client, opened by its first request.

    Args:
        port: of the server on this machine.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def send(self, data: bytes) -> None:
        """Send bytes.

        Raises:
            ConnectionError: if the server has closed the connection.
        """
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(HOST, self.port, limit=LIMIT)
        self._writer.write(data)
        await self._writer.drain()

    async def receive(self) -> Answer:
        """Wait for an answer, or for the end of the connection."""
        assert self._reader is not None
        try:
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])
            }
            status = int(head[0].split()[1])
            length = 0 if status in (204, 304) else int(headers["content-length"])
            answer = Answer(status, headers, await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            answer = Answer(CLOSED)
        if answer.status == CLOSED or answer.headers.get("connection", "").lower() == "close":
            self.abort()
        return answer

    async def ask(self, data: bytes) -> Answer:
        """Send a request and wait for its answer. What was idle for too long is opened again."""
        try:
            await self.send(data)
        except ConnectionError:
            self.abort()
            await self.send(data)
        return await self.receive()

    def end_sending(self) -> None:
        """Close one half of the connection: nothing more will be sent, but answers may come."""
        assert self._writer is not None
        self._writer.write_eof()

    def abort(self) -> None:
        """Close the connection at once."""
        if self._writer is not None:
            self._writer.transport.abort()
            self._reader = self._writer = None
