"""Resumable HTTP downloads, verified and moved into place when complete.

Partial content is kept in `NAME.part`, so the file under the final name is always usable.
"""

from __future__ import annotations

import http.client
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from typing import Any, BinaryIO

from oneclip._version import __version__
from oneclip.errors import ChecksumError, DownloadError, OfflineError, OutputError
from oneclip.hub.atomic import file_lock, publish_file, write_errors
from oneclip.hub.cache import OFFLINE_REASON, PULL_HINT, offline, sha256_of
from oneclip.hub.download_bar import DownloadBar

TIMEOUT = 30.0  # seconds without data after which a connection counts as dropped
ATTEMPTS = 5  # consecutive attempts that each receive less than ENOUGH
ENOUGH = 2**20  # bytes
BACKOFF = 0.5  # seconds before the second attempt, doubled for each further one
LONGEST_WAIT = 30.0  # seconds, even if the server requests more
CHUNK = 2**18  # bytes


def download(
    url: str,
    folder: str | os.PathLike[str],
    *,
    sha256: str | None = None,
    progress: bool = True,
    urlopen: Callable[..., Any] | None = None,
) -> Path:
    """Download a file over HTTP, unless it is already present.

    Safe for concurrent processes: one downloads, the others wait.

    Args:
        url: of the file; the last part of its path becomes the file name.
        folder: destination; created if necessary.
        sha256: expected checksum, or its first digits. A file that is present is also checked, and replaced if it
            differs.
        progress: whether to draw a progress bar on stderr.
        urlopen: function that opens a URL; `urllib.request.urlopen` if None.

    Raises:
        OfflineError: if the file is not present and the network is switched off.
        ChecksumError: if the checksum differs; the download is deleted.
        DownloadError: if it cannot be fetched. Partial content is kept for the next attempt.
        OutputError: if it cannot be written, for example because the disk is full.
    """
    target = Path(folder).expanduser() / file_name(url)
    sha256 = sha256.lower() if sha256 else None
    if target.exists() and not target.is_file():
        raise OutputError(f"{target} exists and is not a file; move it or choose another folder")
    if _is_valid(target, sha256):
        return target
    if offline():
        state = "is damaged or a different file" if target.exists() else "is not on this machine"
        raise OfflineError(
            f"{target} {state} and {OFFLINE_REASON}. Fetch {url} elsewhere and copy it there. {PULL_HINT}"
        )
    with write_errors(target), file_lock(target.with_name(target.name + ".lock")):
        if not _is_valid(target, sha256):  # another process may have fetched it meanwhile
            part = target.with_name(target.name + ".part")
            publish_file(_fetch_valid(url, part, sha256, progress, urlopen or urllib.request.urlopen), target)
    return target


def file_name(url: str) -> str:
    """Return the local file name of a URL.

    Raises:
        DownloadError: if the URL is not HTTP or does not end in a file name.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise DownloadError(f"{url} is not an http:// or https:// address")
    name = urllib.parse.unquote(parts.path).rpartition("/")[2]
    if name in ("", ".", "..") or not re.fullmatch(r"[^\\/:*?\"<>|\x00-\x1f]+", name):
        raise DownloadError(f"{url} does not end in a file name")
    return name


def _is_valid(path: Path, sha256: str | None) -> bool:
    return path.is_file() and (sha256 is None or sha256_of(path).startswith(sha256))


def _fetch_valid(
    url: str, part: Path, sha256: str | None, progress: bool, urlopen: Callable[..., Any]
) -> Path:
    """Download into a part file and verify its checksum; start again if resumed content was wrong."""
    if sha256 is None:
        part.unlink(missing_ok=True)  # without a checksum, an earlier part may belong to another file
    continued = part.exists()
    _fetch(url, part, progress, urlopen)
    found = sha256_of(part)
    if continued and not found.startswith(sha256 or ""):
        part.unlink()  # the earlier part may be damaged
        _fetch(url, part, progress, urlopen)
        found = sha256_of(part)
    if not found.startswith(sha256 or ""):
        part.unlink()
        raise ChecksumError(
            f"{url} has the sha256 {found}; expected {sha256}. The download was deleted. Try again, or use "
            "another network: a proxy may change the content"
        )
    return part


class _RetryableError(Exception):
    """Failed attempt that may be repeated after `wait` seconds."""

    def __init__(self, why: str | BaseException, wait: float = 0.0) -> None:
        if isinstance(why, BaseException):
            why = str(getattr(why, "reason", why)) or type(why).__name__
        super().__init__(why)
        self.wait = min(wait, LONGEST_WAIT)


def _fetch(url: str, part: Path, progress: bool, urlopen: Callable[..., Any]) -> None:
    """Append to a part file until it is complete."""
    failures = 0
    etag: str | None = None  # of the file that the first responses belong to
    with part.open("ab") as file, DownloadBar(file_name(url), progress) as bar:
        while True:
            before = file.tell()
            try:
                reply = _request_from(url, before, etag, urlopen)
                if reply is not None:
                    with reply:
                        etag = _strong_etag(reply)
                        _append(reply, file, bar)
                break
            except _RetryableError as drop:
                failures = 1 if file.tell() - before >= ENOUGH else failures + 1
                if failures >= ATTEMPTS:
                    raise DownloadError(
                        f"{url} could not be fetched in {ATTEMPTS} attempts: {drop}. Try again later, or "
                        f"fetch it elsewhere and copy it to {part.with_suffix('')}"
                    ) from drop
                time.sleep(max(drop.wait, BACKOFF * 2 ** (failures - 1)))


def _request_from(
    url: str, start: int, etag: str | None, urlopen: Callable[..., Any]
) -> http.client.HTTPResponse | None:
    """Request a file from a byte offset.

    Args:
        etag: of the file that the first bytes belong to, if known.

    Returns:
        The response, or None if there are no more bytes.
    """
    headers = {"User-Agent": f"oneclip/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if etag:
            headers["If-Range"] = etag  # a changed file is then sent from its beginning
    try:
        reply: http.client.HTTPResponse
        reply = urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
        return reply
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and start:
                if _content_range(error.headers)[1] == start:
                    return None
                return _request_from(
                    url, 0, None, urlopen
                )  # the partial content does not belong to this file
            if error.code in (408, 425, 429) or error.code >= 500:
                after = error.headers.get("Retry-After") or ""
                wait = float(after) if after.isdecimal() else 0.0
                raise _RetryableError(f"HTTP {error.code} {error.reason}", wait) from error
            raise DownloadError(f"{url} could not be fetched: HTTP {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _RetryableError(error) from error


def _append(reply: http.client.HTTPResponse, file: BinaryIO, bar: DownloadBar) -> None:
    """Append a response to a file, or replace its content if the response starts at the first byte."""
    length = reply.headers.get("Content-Length") or ""
    total = int(length) if length.isdecimal() else None
    if reply.status == 206:
        first, total = _content_range(reply.headers)
        if first != file.tell():
            _empty(file)  # the next attempt requests the whole file
            raise _RetryableError("the server sent a different range than requested")
    else:
        _empty(file)  # the server does not support ranges, or the file has changed
    file.seek(0, os.SEEK_END)
    bar.start(file.tell(), total)
    try:
        while chunk := _read(reply):
            file.write(chunk)
            bar.advance(len(chunk))
    finally:
        file.flush()
    if total is not None and file.tell() < total:
        raise _RetryableError(f"the connection broke after {file.tell():,} of {total:,} bytes")
    if total is not None and file.tell() > total:
        _empty(file)
        raise _RetryableError(f"the server sent more than the announced {total:,} bytes")


def _empty(file: BinaryIO) -> None:
    file.seek(0)
    file.truncate()


def _read(reply: http.client.HTTPResponse) -> bytes:
    try:
        return reply.read(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _RetryableError(error) from error


def _content_range(headers: Message) -> tuple[int | None, int | None]:
    """Parse a Content-Range header (`bytes 5-9/10`, `bytes */10`) into first byte and total size."""
    found = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", (headers.get("Content-Range") or "").strip())
    first, total = found.groups() if found else (None, None)
    return int(first) if first else None, int(total) if total and total != "*" else None


def _strong_etag(reply: http.client.HTTPResponse) -> str | None:
    etag = reply.headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else None
