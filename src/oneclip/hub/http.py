"""HTTP details that urllib does not handle: URL escaping, truncated bodies, and retries of busy servers."""

from __future__ import annotations

import time
import urllib.error
import zlib
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit, urlunsplit

from oneclip.errors import DownloadError

BUSY_STATUSES = (429, 503)  # status codes after which a client should retry
RETRY_SECONDS = (0.5, 2.0, 8.0)  # seconds before each retry if the server sends no Retry-After
MAX_RETRY_SECONDS = 20.0  # seconds; a server that requests a longer wait counts as failed

# Characters that browsers do not escape:
# https://url.spec.whatwg.org/#path-percent-encode-set, #special-query-percent-encode-set
_PATH = "!$%&'()*+,-./:;=@[]^_|~"
_QUERY = "!$%&()*+,-./:;=?@[\\]^_`{|}~"

_T = TypeVar("_T")


def escape_url(address: str) -> str:
    """Escape a URL as a browser does: percent-encode the path and query, and encode the host name.

    Raises:
        ValueError: if it is not a valid URL.
    """
    parts = urlsplit(address.strip())
    host = parts.netloc
    if not host.isascii():
        host = _ascii_host(host)
    path, query = (
        quote(text, safe=safe, errors="surrogateescape")
        for text, safe in ((parts.path.replace("\\", "/"), _PATH), (parts.query, _QUERY))
    )
    return urlunsplit((parts.scheme, host, path, query, ""))


def complete_body(content: bytes, answer: Any, limit: int) -> bytes:
    """Return the body of a response if it is complete; decompress it if the server compressed it anyway.

    Args:
        content: the bytes that were received.
        answer: the response of `urlopen`, read to its end.
        limit: maximum number of bytes after decompression.

    Raises:
        DownloadError: if fewer bytes arrived than announced, or decompression fails.
    """
    announced = answer.headers.get("Content-Length") or ""
    chunked = (
        "chunked" in (answer.headers.get("Transfer-Encoding") or "").lower()
    )  # http.client checks chunked bodies
    if announced.isdecimal() and not chunked and len(content) < int(announced):
        raise DownloadError(
            f"the connection broke after {len(content):,} of {int(announced):,} bytes; run again to fetch all of it"
        )
    if (answer.headers.get("Content-Encoding") or "").lower() not in ("gzip", "x-gzip", "deflate"):
        return content
    unpack = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    try:
        content = unpack.decompress(content, limit + 1)
    except zlib.error as error:
        raise DownloadError(f"the compressed response is damaged: {error}") from error
    if not unpack.eof and len(content) <= limit:
        raise DownloadError("the compressed response is truncated; run again to fetch all of it")
    return content


def retry_while_busy(ask: Callable[[], _T]) -> _T:
    """Call a request and retry it while the server is busy, after the wait that it requests.

    Raises:
        HTTPError: of the last attempt.
    """
    for pause in RETRY_SECONDS:
        try:
            return ask()
        except urllib.error.HTTPError as error:
            wait = retry_after_seconds(error)
            if error.code not in BUSY_STATUSES or (wait or 0) > MAX_RETRY_SECONDS:
                raise
            error.close()
        time.sleep(pause if wait is None else wait)
    return ask()


def retry_after_seconds(error: urllib.error.HTTPError) -> float | None:
    """Return the seconds in a Retry-After header, given as a number or a date; None without a valid header."""
    after = (error.headers.get("Retry-After") or "").strip()
    if after.isdecimal():
        return float(after)
    try:
        return max(0.0, parsedate_to_datetime(after).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def _ascii_host(host: str) -> str:
    name, colon, port = host.partition(":")
    try:
        import idna  # installed with huggingface_hub; supports newer names than Python's codec
    except ImportError:
        return name.encode("idna").decode() + colon + port
    return str(idna.encode(name, uts46=True), "ascii") + colon + port
