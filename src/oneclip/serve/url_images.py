"""Fetch images by URL for requests, without giving clients a way into the network of the server.

An address is resolved once, every address of the name must be public, and the connection is made to the address that
was checked, so that a second answer of the name server cannot change it. A redirect is a new URL with the same checks.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import cache
from typing import Any, NamedTuple
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from oneclip._version import __version__
from oneclip.errors import ConfigError, ImageError
from oneclip.serve.public_addresses import is_public_address

MAX_REDIRECTS = 3
MAX_URL_CHARS = 8192
REDIRECTS = (301, 302, 303, 307, 308)
DEFAULT_PORTS = {"http": 80, "https": 443}
EVERY_HOST = "*"
_CHUNK = 1 << 16


class ImageUrlError(ImageError):
    """Image that is not fetched: the URL is refused, or there is no image of an acceptable size behind it."""


class Rule(NamedTuple):
    """Host from which images may be fetched.

    Attributes:
        host: name in lower case, or "*" for all.
        port: None for 80 and 443.
    """

    host: str
    port: int | None


def parse_rule(text: str) -> Rule:
    """Parse `HOST`, `HOST:PORT` or "*".

    Raises:
        ConfigError: if it is something else.
    """
    try:
        parts = urlsplit(f"//{text}")
        rule = Rule(_ascii_host(parts).rstrip("."), parts.port)
    except ValueError as error:
        raise ConfigError(f"{text!r} is not a host from which images can be fetched: {error}") from error
    if not rule.host or parts.path or parts.query or parts.username is not None:
        raise ConfigError(
            f"{text!r} is not a host from which images can be fetched; expected HOST or HOST:PORT"
        )
    return rule


def resolve_host(host: str, port: int) -> list[str]:
    """Return the addresses of a host.

    Raises:
        OSError: if it has none.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class UrlFetcher:
    """Fetches the images of one request.

    Args:
        allowed: hosts, see `parse_rule`; "*" for all public ones. Empty: nothing is fetched.
        max_bytes: limit of all images together.
        timeout: seconds for all of them together.
        resolve: addresses of a host and a port, see `resolve_host`.
        is_allowed: check of an address.
        tls: verifies servers; None for the certificates of this machine.
    """

    def __init__(
        self,
        allowed: Sequence[str],
        max_bytes: int,
        timeout: float,
        *,
        resolve: Callable[[str, int], list[str]] = resolve_host,
        is_allowed: Callable[[str], bool] = is_public_address,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._rules = [parse_rule(text) for text in allowed]
        self._max_bytes, self._bytes_left, self._lock = max_bytes, max_bytes, threading.Lock()
        self._timeout, self._deadline = timeout, time.monotonic() + timeout
        self._resolve, self._is_allowed, self._tls = resolve, is_allowed, tls

    def fetch(self, url: str) -> bytes:
        """Fetch what is behind a URL. Safe to call from many threads.

        Raises:
            ImageUrlError: with a message for the client.
        """
        for _ in range(MAX_REDIRECTS + 1):
            found = self._request(url)
            if isinstance(found, bytes):
                return found
            url = found
        raise ImageUrlError(f"there are more than {MAX_REDIRECTS} redirects")

    def _request(self, url: str) -> bytes | str:
        """Return the body of a response, or the URL to which it redirects."""
        parts, port = self._check(url)
        host = str(parts.hostname)
        tls = (self._tls or _default_tls()) if parts.scheme == "https" else None
        addresses = self._addresses(host, port)
        try:
            with closing(_connect(host, port, addresses, self._deadline, tls)) as sock:
                connection = http.client.HTTPConnection(host, port)
                connection.default_port = DEFAULT_PORTS[parts.scheme]  # left out of the header Host
                connection.sock = _DeadlineSocket(sock, self._deadline)
                connection.request("GET", _target(parts), headers=_HEADERS)
                return self._read(connection.getresponse(), url)
        except ImageUrlError:
            raise
        except TimeoutError as error:
            raise ImageUrlError(f"{host} did not answer within {self._timeout:g} seconds") from error
        except ssl.SSLCertVerificationError as error:
            raise ImageUrlError(f"the certificate of {host} is not valid: {error.verify_message}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ImageUrlError(f"{host} cannot be read: {str(error) or type(error).__name__}") from error

    def _check(self, url: str) -> tuple[SplitResult, int]:
        """Return the parts of a URL that may be fetched, and its port."""
        if len(url) > MAX_URL_CHARS:
            raise ImageUrlError(f"the URL has {len(url)} characters; at most {MAX_URL_CHARS} are read")
        try:
            parts = urlsplit(url)
            host, port = _ascii_host(parts), parts.port
        except ValueError as error:  # also for names that IDNA does not have
            raise ImageUrlError(f"{url[:200]!r} is not a URL: {error}") from error
        if parts.scheme not in DEFAULT_PORTS:
            raise ImageUrlError(
                f"URLs that begin with {parts.scheme[:20]}: are not fetched; use https:// or http://"
            )
        if not host:
            raise ImageUrlError(f"{url[:200]!r} names no host")
        if parts.username is not None or parts.password is not None:
            raise ImageUrlError("the URL contains a user name or a password; images are fetched without")
        port = DEFAULT_PORTS[parts.scheme] if port is None else port
        if not all(
            map(self._is_allowed, _numeric_addresses(host))
        ):  # no rule would help, so none is recommended
            raise ImageUrlError(f"{host} is an address that is not public; it is not asked for images")
        if not any(_matches(rule, host, port) for rule in self._rules):
            raise ImageUrlError(self._refusal(host, port))
        shown = f"[{host}]" if ":" in host else host
        return parts._replace(netloc=f"{shown}:{port}"), port

    def _refusal(self, host: str, port: int) -> str:
        if not self._rules:
            return (
                "this server does not fetch images by URL: send the image itself as a data URI, or start the "
                f"server with --allow-urls {host}"
            )
        name = host if port in DEFAULT_PORTS.values() else f"{host}:{port}"
        return f"images are not fetched from {name}; the server must be started with --allow-urls {name}"

    def _addresses(self, host: str, port: int) -> list[str]:
        """Resolve a host, and refuse it if any of its addresses is not public.

        The message is the same for an unknown name, because only the network of the server knows internal names.
        """
        try:
            addresses = self._resolve(host, port)
        except (OSError, ValueError):
            addresses = []
        if not addresses or not all(map(self._is_allowed, addresses)):
            raise ImageUrlError(
                f"{host} is unknown or has an address that is not public; it is not asked for images"
            )
        return addresses

    def _read(self, response: http.client.HTTPResponse, url: str) -> bytes | str:
        location = response.headers.get("Location")
        if response.status in REDIRECTS and location:
            return urljoin(url, location)
        if response.status != 200:
            raise ImageUrlError(f"the host answered {response.status}, not 200")
        if response.length is not None:
            self._take(response.length, only_check=True)
        chunks = []
        while chunk := response.read(_CHUNK):
            self._take(len(chunk))
            chunks.append(chunk)
        if response.length:
            raise ImageUrlError(f"the connection ended {response.length} bytes before the end of the image")
        return b"".join(chunks)

    def _take(self, count: int, *, only_check: bool = False) -> None:
        """Take bytes from what all images of the request may have."""
        with self._lock:
            if count > self._bytes_left:
                raise ImageUrlError(
                    f"the images behind the URLs of a request may have {self._max_bytes} bytes"
                )
            self._bytes_left -= 0 if only_check else count


_HEADERS = {"User-Agent": f"oneclip/{__version__}", "Accept": "image/*", "Accept-Encoding": "identity"}


@cache
def _default_tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def _numeric_addresses(host: str) -> list[str]:
    """Return the address that a host is in numbers, in whatever spelling; nothing for a name."""
    try:
        found = socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)
    except (OSError, ValueError):
        return []
    return [str(address[0]) for *_, address in found]


def _ascii_host(parts: SplitResult) -> str:
    """Return the host of a URL in lower case, as the name servers know it; "" if there is none."""
    return (parts.hostname or "").encode("idna").decode("ascii")


def _matches(rule: Rule, host: str, port: int) -> bool:
    if rule.host not in (EVERY_HOST, host.rstrip(".")):
        return False
    return port == rule.port if rule.port is not None else port in DEFAULT_PORTS.values()


def _target(parts: SplitResult) -> str:
    """Return path and query in the characters that a request may have."""
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return quote(path, safe="%/:?#[]@!$&'()*+,;=~")


def _connect(
    host: str, port: int, addresses: Sequence[str], deadline: float, tls: ssl.SSLContext | None
) -> socket.socket:
    """Connect to the first of a host's checked addresses that answers, and verify its certificate."""
    error: OSError = OSError("no address")
    for i, address in enumerate(addresses):
        sock = None
        try:
            sock = socket.create_connection((address, port), _time_left(deadline) / (len(addresses) - i))
            sock.settimeout(_time_left(deadline))
            return tls.wrap_socket(sock, server_hostname=host.rstrip(".")) if tls else sock
        except OSError as raised:
            if sock is not None:
                sock.close()
            if isinstance(raised, ssl.SSLCertVerificationError):
                raise
            error = raised
    raise error


class _DeadlineSocket:
    """What `http.client` uses of a socket, with one deadline for all of it.

    The timeout of a socket is for one call: a host that sends a byte a second would never exceed it.
    """

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock, self._deadline = sock, deadline

    def sendall(self, data: bytes) -> None:
        self._sock.settimeout(_time_left(self._deadline))
        self._sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_DeadlineReader(self._sock, self._deadline))

    def close(self) -> None:
        """Leave the socket open: `http.client` closes it before the body is read."""


class _DeadlineReader(io.RawIOBase):
    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock, self._deadline = sock, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._sock.settimeout(_time_left(self._deadline))
        return self._sock.recv_into(buffer)


def _time_left(deadline: float) -> float:
    """Return the seconds until a deadline.

    Raises:
        TimeoutError: after it.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
