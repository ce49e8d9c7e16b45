"""What HTTP leaves to its clients: addresses as browsers send them, whole answers, waits that servers ask for."""

from __future__ import annotations

import time
import urllib.error
import zlib
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit, urlunsplit

from oneclip.errors import DownloadError

BUSY = (429, 503)  # answers that ask to come again
PAUSES = (0.5, 2.0, 8.0)  # seconds before another attempt, where a server does not say how many
LONGEST_PAUSE = 20.0  # seconds; a server that asks for more counts as not answering in this run

# What browsers leave as it is: https://url.spec.whatwg.org/#path-percent-encode-set, #special-query-percent-encode-set
_PATH = "!$%&'()*+,-./:;=@[]^_|~"
_QUERY = "!$%&()*+,-./:;=?@[\\]^_`{|}~"

_T = TypeVar("_T")


def escaped(address: str) -> str:
    """An address as a browser sends it: spaces and other letters percent-encoded, also in the name of a host.

    Raises:
        ValueError: if it is no address.
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


def whole(content: bytes, answer: Any, limit: int) -> bytes:
    """The content of an answer, if all of it has come; decompressed if the server compressed it unasked.

    Args:
        content: what was read, as it was sent.
        answer: of `urlopen`, read to its end.
        limit: bytes after decompressing.

    Raises:
        DownloadError: if less came than was announced.
    """
    announced = answer.headers.get("Content-Length") or ""
    chunked = "chunked" in (answer.headers.get("Transfer-Encoding") or "").lower()  # http.client checks those
    if announced.isdecimal() and not chunked and len(content) < int(announced):
        raise DownloadError(
            f"the connection broke after {len(content):,} of {int(announced):,} bytes; run again to read all of it"
        )
    if (answer.headers.get("Content-Encoding") or "").lower() not in ("gzip", "x-gzip", "deflate"):
        return content
    unpack = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    try:
        content = unpack.decompress(content, limit + 1)
    except zlib.error as error:
        raise DownloadError(f"its compressed answer is damaged: {error}") from error
    if not unpack.eof and len(content) <= limit:
        raise DownloadError("its compressed answer breaks off; run again to read all of it")
    return content


def while_busy(ask: Callable[[], _T]) -> _T:
    """What a server answers; one that is busy is asked again after the time it says, or a short one.

    Raises:
        HTTPError: what it answers in the end.
    """
    for pause in PAUSES:
        try:
            return ask()
        except urllib.error.HTTPError as error:
            wait = wait_asked(error)
            if error.code not in BUSY or (wait or 0) > LONGEST_PAUSE:
                raise
            error.close()
        time.sleep(pause if wait is None else wait)
    return ask()


def wait_asked(error: urllib.error.HTTPError) -> float | None:
    """Seconds that a server asks to wait, as a number or a date."""
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
        import idna  # a dependency of what huggingface_hub downloads with; knows newer names than the codec
    except ImportError:
        return name.encode("idna").decode() + colon + port
    return str(idna.encode(name, uts46=True), "ascii") + colon + port
