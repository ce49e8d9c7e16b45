"""A URL to a file: continued where it broke off, verified, and moved into place only when whole.

What has come lies in `NAME.part` beside the file's place until then, so that whatever lies in its place can
be used.
"""

from __future__ import annotations

import http.client
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import Message
from pathlib import Path
from typing import Any, BinaryIO

from oneclip._version import __version__
from oneclip.errors import ChecksumError, DownloadError, OfflineError, OutputError
from oneclip.hub.cache import PULL_HINT, SWITCHED_OFF, offline, sha256_of, writing
from oneclip.hub.download_bar import DownloadBar

TIMEOUT = 30.0  # seconds without a byte until a connection counts as dropped
ATTEMPTS = 5  # in a row that each bring less than ENOUGH
ENOUGH = 2**20  # bytes
BACKOFF = 0.5  # seconds before the second attempt, doubled for each further one
LONGEST_WAIT = 30.0  # seconds, also where a server asks for more
CHUNK = 2**18  # bytes


def download(
    url: str,
    folder: str | os.PathLike[str],
    *,
    sha256: str | None = None,
    progress: bool = True,
    urlopen: Callable[..., Any] | None = None,
) -> Path:
    """Fetch a file over HTTP, unless it is there already.

    Any number of processes may ask for the same file: one fetches it, the others wait.

    Args:
        url: where it lies; the last part of its path is its name here.
        folder: where to put it; made if need be.
        sha256: its checksum, or the first digits of it. A file that is there already is checked too, and
            replaced if it is another one.
        progress: whether to draw a progress bar on stderr.
        urlopen: what opens an address; `urllib.request.urlopen` if None.

    Raises:
        OfflineError: if it is not there and the network is switched off.
        ChecksumError: if what came is not what was published; it is deleted.
        DownloadError: if it cannot be fetched. What has come is kept, for the next attempt.
        OutputError: if it cannot be written, since the disk is full, for instance.
    """
    target = Path(folder).expanduser() / file_name(url)
    sha256 = sha256.lower() if sha256 else None
    if target.exists() and not target.is_file():
        raise OutputError(f"{target} exists and is not a file. Move it, or choose another folder")
    if _is_valid(target, sha256):
        return target
    if offline():
        state = "is damaged, or another file," if target.exists() else "is not on this machine"
        raise OfflineError(
            f"{target} {state} and {SWITCHED_OFF}. Fetch {url} elsewhere and put it there. {PULL_HINT}"
        )
    with writing(target), _one_at_a_time(target):
        if not _is_valid(target, sha256):  # or else another process has fetched it meanwhile
            part = target.with_name(target.name + ".part")
            os.replace(_fetch_valid(url, part, sha256, progress, urlopen or urllib.request.urlopen), target)
    return target


def file_name(url: str) -> str:
    """The name that a download gets here.

    Raises:
        DownloadError: if the URL is not HTTP, or names no file.
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


@contextmanager
def _one_at_a_time(target: Path) -> Iterator[None]:
    from filelock import FileLock

    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(target.name + ".lock")):
        yield


def _fetch_valid(
    url: str, part: Path, sha256: str | None, progress: bool, urlopen: Callable[..., Any]
) -> Path:
    """Fetch a file into a part file whose checksum is right."""
    if sha256 is None:
        part.unlink(missing_ok=True)  # nothing would tell whether an earlier part is of the same file
    continued = part.exists()
    _fetch(url, part, progress, urlopen)
    found = sha256_of(part)
    if continued and not found.startswith(sha256 or ""):
        part.unlink()  # the earlier part may be at fault
        _fetch(url, part, progress, urlopen)
        found = sha256_of(part)
    if not found.startswith(sha256 or ""):
        part.unlink()
        raise ChecksumError(
            f"{url} came with the sha256 {found}, and {sha256} is published; it was deleted. Try again, or "
            "from another network: something on the way changes it"
        )
    return part


class _Dropped(Exception):
    """An attempt that failed but may be made again, after `wait` seconds."""

    def __init__(self, why: str | BaseException, wait: float = 0.0) -> None:
        if isinstance(why, BaseException):
            why = str(getattr(why, "reason", why)) or type(why).__name__
        super().__init__(why)
        self.wait = min(wait, LONGEST_WAIT)


def _fetch(url: str, part: Path, progress: bool, urlopen: Callable[..., Any]) -> None:
    """Append to a part file until it is the whole file."""
    failures = 0
    etag: str | None = None  # of the file that the first replies gave the start of
    with part.open("ab") as file, DownloadBar(file_name(url), progress) as bar:
        while True:
            before = file.tell()
            try:
                reply = _ask(url, before, etag, urlopen)
                if reply is not None:
                    with reply:
                        etag = _strong_etag(reply)
                        _append(reply, file, bar)
                break
            except _Dropped as drop:
                failures = 1 if file.tell() - before >= ENOUGH else failures + 1
                if failures >= ATTEMPTS:
                    raise DownloadError(
                        f"{url} could not be fetched in {ATTEMPTS} attempts: {drop}. Try again later, or "
                        f"fetch it elsewhere and put it at {part.with_suffix('')}"
                    ) from drop
                time.sleep(max(drop.wait, BACKOFF * 2 ** (failures - 1)))
        file.flush()
        os.fsync(file.fileno())


def _ask(
    url: str, start: int, etag: str | None, urlopen: Callable[..., Any]
) -> http.client.HTTPResponse | None:
    """Ask for a file from a byte on.

    Args:
        etag: what the server called the file whose first bytes are here, if that is known.

    Returns:
        The reply, or None if the file has no more bytes.
    """
    headers = {"User-Agent": f"oneclip/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if etag:
            headers["If-Range"] = etag  # a file that has changed then comes whole
    try:
        reply: http.client.HTTPResponse
        reply = urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
        return reply
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and start:
                if _content_range(error.headers)[1] == start:
                    return None
                return _ask(url, 0, None, urlopen)  # what is here is not the start of it
            if error.code in (408, 425, 429) or error.code >= 500:
                after = error.headers.get("Retry-After") or ""
                wait = float(after) if after.isdecimal() else 0.0
                raise _Dropped(f"HTTP {error.code} {error.reason}", wait) from error
            raise DownloadError(f"{url} could not be fetched: HTTP {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _Dropped(error) from error


def _append(reply: http.client.HTTPResponse, file: BinaryIO, bar: DownloadBar) -> None:
    """Write a reply behind what is in a file, or in place of it if the reply starts from the first byte."""
    length = reply.headers.get("Content-Length") or ""
    total = int(length) if length.isdecimal() else None
    if reply.status == 206:
        first, total = _content_range(reply.headers)
        if first != file.tell():
            _empty(file)  # the next attempt asks for all of it
            raise _Dropped("the server sent another part than requested")
    else:
        _empty(file)  # the server has no parts, or the file has changed
    file.seek(0, os.SEEK_END)
    bar.start(file.tell(), total)
    try:
        while chunk := _read(reply):
            file.write(chunk)
            bar.advance(len(chunk))
    finally:
        file.flush()
    if total is not None and file.tell() < total:
        raise _Dropped(f"the connection broke after {file.tell():,} of {total:,} bytes")
    if total is not None and file.tell() > total:
        _empty(file)
        raise _Dropped(f"more came than the {total:,} bytes that were announced")


def _empty(file: BinaryIO) -> None:
    file.seek(0)
    file.truncate()


def _read(reply: http.client.HTTPResponse) -> bytes:
    try:
        return reply.read(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _Dropped(error) from error


def _content_range(headers: Message) -> tuple[int | None, int | None]:
    """First byte and size of the whole, as far as a reply says them: `bytes 5-9/10`, `bytes */10`."""
    found = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", (headers.get("Content-Range") or "").strip())
    first, total = found.groups() if found else (None, None)
    return int(first) if first else None, int(total) if total and total != "*" else None


def _strong_etag(reply: http.client.HTTPResponse) -> str | None:
    etag = reply.headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else None
