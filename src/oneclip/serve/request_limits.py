"""Middleware that refuses foreign pages, unknown keys, and bodies that are too large, too slow or no JSON.

The body is read before the route is called, so that the server can watch whether the client leaves meanwhile: then
the route is cancelled, and what it has queued is skipped.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

import orjson
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from oneclip.serve.errors import DeadlineError, NotReadyError, RequestError
from oneclip.serve.settings import is_loopback
from oneclip.serve.state import ServerState

OPEN_PATHS = ("/", "/health", "/ready", "/ping", "/docs", "/openapi.json", "/favicon.ico")
"""Paths that need no key: what says nothing about the images, and the page, which sends the key with what it asks."""
OPEN_FOLDER = "/page/"
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
LEAST_BUDGET = 256_000_000  # bytes of bodies in memory
SECONDS_TO_DISCARD = 5.0
GRACE_SECONDS = 1.0  # for a route to report its own deadline, which says more

ContentTypes = Callable[[str, str], "tuple[str, ...] | None"]
"""From the method and path of a request to the content types of its body; None if every one is allowed."""


def needs_key(path: str) -> bool:
    """Return whether a path needs a key where there are keys."""
    return path not in OPEN_PATHS and not path.startswith(OPEN_FOLDER)


class ClientLeftError(Exception):
    """The client closed the connection before it had sent the whole body."""


class RequestLimits:
    """ASGI middleware that checks requests, reads their bodies, and calls the application.

    Args:
        app: the application.
        state: of the server.
        content_types: what the routes take.
    """

    def __init__(self, app: ASGIApp, state: ServerState, content_types: ContentTypes) -> None:
        self.app, self.state, self.settings = app, state, state.settings
        self.content_types = content_types
        self.budget = max(LEAST_BUDGET, 4 * self.settings.max_body)
        self.held = 0  # bytes of the bodies of all requests in progress
        self.hosts = {host.lower() for host in (self.settings.host, *self.settings.allow_hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, parts = Headers(scope=scope), _Parts()
        try:
            await self._check(scope, headers, receive)
            await self._read(parts, receive)
            body = parts.joined()
            _check_json(headers, body)
            await self._call(scope, body, receive, send)
        except RequestError as error:
            if "expect" in headers:  # whether the body follows is up to the client, so nothing else can
                error.headers["Connection"] = "close"
            await error.response()(scope, receive, send)
        except ClientLeftError:
            pass
        finally:
            self.held -= parts.size

    # ------------------------------------------------------------------------------------------- before the body

    async def _check(self, scope: Scope, headers: Headers, receive: Receive) -> None:
        """Raise RequestError for what can be refused without the body."""
        if self.state.is_draining:
            await _discard(receive)  # else closing the connection would take the answer with it
            error = NotReadyError("the server is stopping; try another one")
            error.headers["Connection"] = "close"
            raise error
        self._check_host(headers)
        self._check_origin(scope["method"], headers)
        keys = self.state.keys
        if keys is not None and needs_key(scope["path"]) and not keys.accept(headers):
            raise RequestError(
                401,
                "a known API key is needed: the header Authorization: Bearer KEY, or X-API-Key: KEY",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        self._check_length(headers)
        self._check_content_type(scope, headers)

    def _check_host(self, headers: Headers) -> None:
        """Refuse names that are not ours: a foreign page could have its own name lead to this machine (DNS rebinding).

        An address in numbers is no such name. Where other machines may call and a key is needed, every name is allowed:
        the page would not have the key.
        """
        names = headers.getlist("host")
        if not names or (self.state.keys is not None and not is_loopback(self.settings.host)):
            return
        name = re.sub(r":\d*$", "", names[0]).strip("[]").lower()
        if len(names) == 1 and (name in self.hosts or name == "localhost" or _is_address(name)):
            return
        raise RequestError(
            403,
            f"{names[0][:100]!r} is not a name of this server; if it should be, start it with --allow-host",
            code="host_not_allowed",
        )

    def _check_origin(self, method: str, headers: Headers) -> None:
        """Refuse requests that change or compute something and come from a foreign page."""
        origin, allowed = headers.get("origin"), self.settings.cors
        if origin is None or method in SAFE_METHODS or "*" in allowed or origin in allowed:
            return
        try:
            if urlsplit(origin).netloc.lower() == headers.get("host", "").lower():
                return
        except ValueError:
            pass
        raise RequestError(
            403,
            f"pages of {origin[:100]!r} may not call this server; if they should, start it with --cors",
            code="origin_not_allowed",
        )

    def _check_length(self, headers: Headers) -> None:
        declared = headers.get("content-length", "0")
        if not (declared.isascii() and declared.isdigit()):
            raise RequestError(400, "Content-Length is not a number", code="invalid_header")
        self._check_size(int(declared[:20]))

    def _check_size(self, size: int) -> None:
        if size > self.settings.max_body:
            raise RequestError(
                413,
                f"the body has more than {self.settings.max_body:,} bytes; send fewer or smaller images "
                "in a request",
                code="body_too_large",
            )

    def _check_content_type(self, scope: Scope, headers: Headers) -> None:
        """Refuse types that the route does not take: "text/plain" could come from any page without being asked for."""
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise RequestError(
                415, "Content-Encoding is not supported; send the body as it is", code="unsupported_type"
            )
        accepted = self.content_types(scope["method"], scope["path"])
        given = _media_type(headers)
        if accepted is None or any(_matches(given, each) for each in accepted):
            return
        raise RequestError(
            415,
            f"Content-Type is {given[:100]!r}; expected {' or '.join(accepted)}",
            code="unsupported_type",
        )

    # ----------------------------------------------------------------------------------------- the body, and the call

    async def _read(self, parts: _Parts, receive: Receive) -> None:
        """Read the body, counting its bytes against the limits of this request and of all together.

        Raises:
            RequestError: if it is too large, or not there in time.
            ClientLeftError: if it ends early.
        """

        with _Limit(self.settings.timeout) as limit:
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientLeftError
                chunk = message.get("body", b"")
                self._check_size(parts.size + len(chunk))
                if self.held + len(chunk) > self.budget:
                    raise RequestError(
                        503,
                        "the server holds as many requests as fit into its memory; try again",
                        code="overloaded",
                        headers={"Retry-After": "1"},
                    )
                self.held += len(chunk)
                parts.add(chunk)
                more = message.get("more_body", False)
        if limit.is_exceeded:
            raise RequestError(
                408,
                f"the body did not arrive within {self.settings.timeout:g} seconds",
                code="body_too_slow",
                headers={"Connection": "close"},
            )

    async def _call(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Call the application; cancel it if the client leaves, or if it takes too long.

        Raises:
            RequestError: if there is no answer in time.
        """
        started = ended = False
        pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive_again() -> Message:
            if not pending:
                await asyncio.Event().wait()  # until it is cancelled
            return pending.pop()

        async def send_checked(message: Message) -> None:
            nonlocal started, ended
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message).setdefault("X-Content-Type-Options", "nosniff")
            ended = ended or (message["type"] == "http.response.body" and not message.get("more_body", False))
            await send(message)

        with _Limit(self.settings.timeout + GRACE_SECONDS) as limit:

            def note_gone(task: asyncio.Future[None]) -> None:
                # once all is sent, `receive` also reports that the client is gone
                if not task.cancelled() and not ended:
                    limit.cancel()

            watch = asyncio.ensure_future(_until_gone(receive))
            watch.add_done_callback(note_gone)
            try:
                await self.app(scope, receive_again, send_checked)
            finally:
                watch.cancel()
        if limit.is_exceeded and not started:
            raise DeadlineError(self.settings.timeout)


class _Parts:
    """Parts of a body, and their size in bytes, which stays when they were joined."""

    def __init__(self) -> None:
        self.size = 0
        self._parts: list[bytes] = []

    def add(self, part: bytes) -> None:
        self._parts.append(part)
        self.size += len(part)

    def joined(self) -> bytes:
        """Return the whole, and keep nothing."""
        parts, self._parts = self._parts, []
        return b"".join(parts)


class _Limit:
    """Block that is cancelled after some seconds, or by `cancel`, and then left without an error.

    It costs no task, unlike `asyncio.wait_for`. `asyncio.timeout` needs Python 3.11, and has no `cancel`.

    Attributes:
        is_exceeded: whether the seconds are over.
    """

    def __init__(self, seconds: float) -> None:
        self.is_exceeded = False
        self._task = asyncio.current_task()
        self._is_cancelled = False
        self._timer = asyncio.get_running_loop().call_later(seconds, self._exceed)

    def __enter__(self) -> _Limit:
        return self

    def __exit__(self, kind: type[BaseException] | None, *others: object) -> bool:
        self._timer.cancel()
        task, self._task = self._task, None
        if not self._is_cancelled or kind is not asyncio.CancelledError:
            return False
        if task is not None and hasattr(task, "uncancel"):  # Python 3.11: for an outer `asyncio.timeout`
            task.uncancel()
        return True

    def cancel(self) -> None:
        """Cancel the block, if it has not been left."""
        if self._task is not None and not self._is_cancelled:
            self._is_cancelled = True
            self._task.cancel()

    def _exceed(self) -> None:
        self.is_exceeded = True
        self.cancel()


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _media_type(headers: Mapping[str, str]) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def _matches(given: str, accepted: str) -> bool:
    """Return whether a media type is the accepted one, of which "image/*" and "*/*" are possible."""
    if accepted.endswith("/*"):
        return accepted == "*/*" or given.startswith(accepted[:-1])
    return given == accepted


def _check_json(headers: Headers, body: bytes) -> None:
    """Refuse what is not JSON by the letter of RFC 8259: Python's parser would accept NaN and lone surrogates."""
    if not body or _media_type(headers) != "application/json":
        return
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(400, f"the body is not JSON: {error}", code="invalid_json") from None


async def _discard(receive: Receive) -> None:
    """Read a body that nobody needs, for a while."""

    async def read() -> None:
        while (await receive()).get("more_body", False):
            pass

    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(read(), SECONDS_TO_DISCARD)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
