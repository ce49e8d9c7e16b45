"""What the server refuses before a route sees it, and what it does when clients are slow or leave."""

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
from starlette.types import Message, Receive, Scope, Send

from oneclip.serve.http_protocol import MAX_HEADER_BYTES, limited_protocol
from oneclip.serve.request_limits import RequestLimits
from oneclip.serve.settings import ServeSettings
from oneclip.serve.state import ServerState

JSON = {"content-type": "application/json"}
NEVER, GONE = object(), object()


@dataclass
class Echo:
    """Application that answers the length of the body, or waits until it is cancelled."""

    waits: bool = False
    bodies: list[bytes] = field(default_factory=list)
    cancelled: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.bodies.append((await receive())["body"])
        if self.waits:
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled += 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(len(self.bodies[-1])).encode()})


@dataclass
class Answer:
    """Answer of the middleware."""

    status: int | None
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        error = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return error["code"]


def limits(app: Any, types: Sequence[str] | None = None, **settings: Any) -> RequestLimits:
    state = ServerState(ServeSettings(**settings))
    return RequestLimits(app, state, lambda method, path: types)


def ask(
    middleware: RequestLimits,
    body: bytes | Sequence[Any] = b"",
    headers: dict[str, str] | None = None,
    method: str = "POST",
    *,
    leaves: bool = False,
) -> Answer:
    """Send one request.

    Args:
        middleware: to test.
        body: whole, or in parts, of which NEVER does not come and GONE closes the connection.
        headers: of the request.
        method: of the request.
        leaves: whether the client closes the connection after the request.
    """
    parts: list[Any] = [body] if isinstance(body, bytes) else list(body)
    sent: list[Message] = []

    async def receive() -> Message:
        part = parts.pop(0) if parts else (GONE if leaves else NEVER)
        if part is NEVER:
            await asyncio.Event().wait()
        if part is GONE:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(message: Message) -> None:
        sent.append(message)

    given = {"host": "localhost"} | (headers or {})
    scope = {
        "type": "http",
        "method": method,
        "path": "/v1/embeddings",
        "headers": [(key.encode(), value.encode("latin-1")) for key, value in given.items()],
    }
    asyncio.run(asyncio.wait_for(middleware(scope, receive, send), 60))
    if not sent:
        return Answer(None, {}, b"")
    found = {key.decode(): value.decode() for key, value in sent[0]["headers"]}
    return Answer(sent[0]["status"], found, b"".join(each["body"] for each in sent[1:]))


# ------------------------------------------------------------------------------------------------------------- bodies


def test_a_body_in_parts_reaches_the_route_whole() -> None:
    app = Echo()
    assert ask(limits(app), [b"abc", b"", b"de"]).body == b"5"
    assert app.bodies == [b"abcde"]


def test_a_declared_length_beyond_the_limit_is_refused_before_anything_is_read() -> None:
    answer = ask(limits(Echo(), max_body=100), [NEVER], {"content-length": "101"})
    assert (answer.status, answer.code) == (413, "body_too_large")


def test_a_body_without_a_length_is_refused_once_it_is_too_large() -> None:
    app = Echo()
    answer = ask(limits(app, max_body=100), [b"x" * 60, b"x" * 60, NEVER])
    assert (answer.status, answer.code, app.bodies) == (413, "body_too_large", [])


def test_a_body_that_does_not_arrive_in_time_is_refused() -> None:
    answer = ask(limits(Echo(), timeout=0.05), [b"x", NEVER])
    assert (answer.status, answer.code, answer.headers["connection"]) == (408, "body_too_slow", "close")


def test_a_body_that_ends_early_reaches_no_route_and_is_not_answered() -> None:
    app = Echo()
    assert ask(limits(app), [b"x", GONE]).status is None
    assert app.bodies == []


def test_all_bodies_together_have_a_limit_and_are_released() -> None:
    middleware = limits(Echo())
    middleware.budget = 100
    assert ask(middleware, b"x" * 90).status == 200
    assert middleware.held == 0
    middleware.held = 50
    answer = ask(middleware, b"x" * 60)
    assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "overloaded", "1")
    assert middleware.held == 50


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"input": NaN}',
        b'{"input": Infinity}',
        b'"\\ud800"',
        b'"\xff"',
        b"[" * 100_000,
        '{"input": "a"}'.encode("utf-16"),
        b"\xef\xbb\xbf{}",
    ],
)
def test_what_is_not_json_is_refused(body: bytes) -> None:
    answer = ask(limits(Echo()), body, JSON)
    assert (answer.status, answer.code) == (400, "invalid_json")


def test_a_body_of_another_type_is_not_read_as_json() -> None:
    assert ask(limits(Echo()), b"{", {"content-type": "image/png"}).status == 200


# ------------------------------------------------------------------------------------------------------ time, leaving


def test_a_route_is_cancelled_when_its_client_leaves() -> None:
    app = Echo(waits=True)
    assert ask(limits(app), b"x", leaves=True).status is None
    assert (app.bodies, app.cancelled) == ([b"x"], 1)


def test_a_route_that_takes_too_long_is_cancelled_and_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oneclip.serve.request_limits.GRACE_SECONDS", 0.0)
    app = Echo(waits=True)
    answer = ask(limits(app, timeout=0.05), [b"x"])
    assert (answer.status, answer.code, app.cancelled) == (504, "timeout", 1)


def test_a_server_that_stops_refuses_and_closes_the_connection() -> None:
    middleware = limits(Echo())
    middleware.state.is_draining = True
    answer = ask(middleware, [b"x", b"y"])
    assert (answer.status, answer.code, answer.headers["connection"]) == (503, "not_ready", "close")
    assert "retry-after" in answer.headers


# --------------------------------------------------------------------------------------------------- hosts and origins


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:7997", 200),
        ("127.0.0.1:7997", 200),
        ("[::1]:7997", 200),
        ("192.168.1.7", 200),  # an address in numbers cannot be made to lead elsewhere
        ("photos.example.com:7997", 200),  # --allow-host
        ("evil.example", 403),
        ("localhost.evil.example:7997", 403),
        ("", 403),
        ("a@localhost", 403),
    ],
)
def test_only_names_of_this_server_are_answered(host: str, status: int) -> None:
    answer = ask(limits(Echo(), allow_hosts=("photos.example.com",)), b"", {"host": host})
    assert answer.status == status
    assert status == 200 or answer.code == "host_not_allowed"


@pytest.mark.parametrize(
    ("origin", "method", "status"),
    [
        ("http://localhost", "POST", 200),  # its own page
        ("https://app.example.com", "POST", 200),  # --cors
        ("https://evil.example", "POST", 403),
        ("http://localhost:8000", "POST", 403),  # another program of this machine
        ("null", "POST", 403),
        ("http://[", "POST", 403),
        ("https://evil.example", "GET", 200),  # without the header of CORS, its page cannot read the answer
    ],
)
def test_a_foreign_page_may_not_post(origin: str, method: str, status: int) -> None:
    middleware = limits(Echo(), cors=("https://app.example.com",))
    answer = ask(middleware, b"", {"origin": origin}, method)
    assert answer.status == status
    assert status == 200 or answer.code == "origin_not_allowed"


def test_every_page_may_post_if_all_origins_are_allowed() -> None:
    assert ask(limits(Echo(), cors=("*",)), b"", {"origin": "https://evil.example"}).status == 200


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ("application/json", 200),
        ("Application/JSON; charset=utf-8", 200),
        ("image/webp", 200),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("", 415),
    ],
)
def test_a_route_takes_only_its_content_types(given: str, status: int) -> None:
    answer = ask(limits(Echo(), ["application/json", "image/*"]), b"{}", {"content-type": given})
    assert answer.status == status
    assert status == 200 or answer.code == "unsupported_type"


def test_a_compressed_body_is_refused() -> None:
    assert ask(limits(Echo()), b"", {"content-encoding": "gzip"}).status == 415


# ------------------------------------------------------------------------------------------------- over a real socket

Exchange = Callable[[bytes], bytes]


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    """Serve the echo with short limits, in a thread; yields the port."""
    settings = ServeSettings(max_body=200_000, timeout=2.0)
    app = RequestLimits(Echo(), ServerState(settings), lambda method, path: None)
    config = uvicorn.Config(app, http=limited_protocol(settings), lifespan="off", log_config=None, ws="none")
    listening = socket.create_server(("127.0.0.1", 0))
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, args=([listening],), daemon=True)
    thread.start()
    yield listening.getsockname()[1]
    running.should_exit = True
    thread.join(60)
    assert not thread.is_alive()


@pytest.fixture
def exchange(server: int) -> Exchange:
    """Function that sends bytes and returns all that comes back until the server closes the connection."""

    def call(request: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", server), timeout=60) as connection:
            connection.sendall(request)
            received = b""
            while chunk := connection.recv(65536):
                received += chunk
            return received

    return call


def post(body: bytes, *headers: str) -> bytes:
    lines = [
        "POST / HTTP/1.1",
        "Host: localhost",
        "Connection: close",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def test_a_request_over_a_socket_is_answered(exchange: Exchange) -> None:
    assert b"\r\n100000\r\n" in exchange(post(b"x" * 100_000))


def test_headers_have_a_limit(exchange: Exchange) -> None:
    answer = exchange(post(b"", "X-Long: " + "x" * MAX_HEADER_BYTES))
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b'"code": "headers_too_large"' in answer


def test_headers_that_do_not_end_have_a_limit(exchange: Exchange) -> None:
    assert exchange(b"GET / HTTP/1.1\r\nX: " + b"x" * 2 * MAX_HEADER_BYTES).startswith(b"HTTP/1.1 431 ")


def test_a_body_that_is_too_large_is_answered_although_the_client_sends_it_all(exchange: Exchange) -> None:
    assert exchange(post(b"x" * 400_000)).startswith(b"HTTP/1.1 413 ")


def test_what_is_not_http_is_answered_in_the_shape_of_errors(exchange: Exchange) -> None:
    answer = exchange(b"\x16\x03\x01 hello\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"code": "invalid_http"' in answer


def test_connections_on_which_no_request_arrives_are_closed(server: int) -> None:
    begun = [b"", b"\r\n", b"GET / HTTP/1.1\r\nHost: loc", b"POST / HTTP/1.1\r\nHost: localhost\r\n"]
    connections = [socket.create_connection(("127.0.0.1", server), timeout=60) for _ in begun]
    for connection, begin in zip(connections, begun, strict=True):
        connection.sendall(begin)
    for connection in connections:
        with connection:
            assert connection.recv(65536) == b""


def test_a_body_that_stops_is_answered(exchange: Exchange) -> None:
    assert exchange(post(b"x" * 10).replace(b"Length: 10", b"Length: 20")).startswith(b"HTTP/1.1 408 ")
