"""Byte ranges of local or remote files, and a version string that detects changes."""

from __future__ import annotations

import os
import time
import urllib.error
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from oneclip.errors import DataError, DownloadError, OfflineError
from oneclip.hub.addresses import fsspec_errors, http_request, is_address, is_http, open_filesystem
from oneclip.hub.http import MAX_RETRY_SECONDS, RETRY_SECONDS, retry_after_seconds

MAX_GAP = 1 << 16  # bytes; ranges closer than this are read together
_RETRY_SECONDS = RETRY_SECONDS
_PERMANENT_STATUSES = (400, 401, 403, 404, 405, 410, 416)  # status codes that a retry does not change
# Fields of fsspec's file info that change with the content; the first one present is used.
_VERSION_FIELDS = (
    "ETag",
    "etag",
    "md5Hash",
    "generation",
    "content_md5",
    "mtime",
    "LastModified",
    "last_modified",
)

Range = tuple[int, int]
"""First byte, and the byte after the last."""

_T = TypeVar("_T")


def file_version(location: str) -> tuple[int, str]:
    """Return the size of a file in bytes, and a string that changes with its content.

    Raises:
        DataError: if the file does not exist.
        DownloadError: if an address does not answer.
    """
    try:
        if not is_address(location):
            status = os.stat(location)
            return status.st_size, str(status.st_mtime_ns)
        return _retry(lambda: _remote_version(location))
    except FileNotFoundError as error:
        raise DataError(f"{location}: no such file") from error


def read_ranges(location: str, ranges: Sequence[Range]) -> list[bytes]:
    """Read byte ranges of a file, in the given order; close ranges are read together.

    Raises:
        DataError: if the file ends before a range does, or no longer exists.
        DownloadError: if an address fails four times.
    """
    merged = _merge(ranges)
    try:
        if is_address(location):
            read = _read_web if is_http(location) else _read_remote
            contents = _retry(lambda: read(location, merged))
        else:
            contents = _read_file(location, merged)
    except FileNotFoundError as error:
        raise DataError(f"{location}: the file no longer exists") from error
    found = []
    for start, stop in ranges:
        index = next(i for i, (first, last) in enumerate(merged) if first <= start and stop <= last)
        part = contents[index][start - merged[index][0] : stop - merged[index][0]]
        if len(part) < stop - start:
            raise DataError(
                f"{location} is truncated: it ends before byte {stop} of the range {start} to {stop}"
            )
        found.append(part)
    return found


def _merge(ranges: Sequence[Range]) -> list[Range]:
    merged: list[Range] = []
    for start, stop in sorted(ranges):
        if merged and start <= merged[-1][1] + MAX_GAP:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged


def _read_file(path: str, ranges: Sequence[Range]) -> list[bytes]:
    contents = []
    with open(path, "rb", buffering=0) as file:
        for start, stop in ranges:
            file.seek(start)
            contents.append(file.read(stop - start))
    return contents


def _read_remote(address: str, ranges: Sequence[Range]) -> list[bytes]:
    filesystem, path = open_filesystem(address)
    starts, stops = map(list, zip(*ranges, strict=True))
    with fsspec_errors(address):
        return cast(list[bytes], filesystem.cat_ranges([path] * len(ranges), starts, stops, on_error="raise"))


def _read_web(address: str, ranges: Sequence[Range]) -> list[bytes]:
    contents = []
    for start, stop in ranges:
        part = {"Range": f"bytes={start}-{stop - 1}"}
        with http_request(address, part, once=True) as answer, fsspec_errors(address):
            if answer.status != 206:
                raise DataError(
                    f"{address}: the server does not support byte ranges (it answers {answer.status}, expected 206); "
                    "download the file, or serve it from object storage"
                )
            contents.append(cast(bytes, answer.read()))
    return contents


def _remote_version(address: str) -> tuple[int, str]:
    if is_http(address):
        with http_request(address, method="HEAD", once=True) as answer:
            size = answer.headers.get("Content-Length")
            change = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
    else:
        filesystem, path = open_filesystem(address)
        with fsspec_errors(address):
            facts: dict[str, Any] = filesystem.info(path)
        size = facts.get("size")
        change = str(
            next((facts[name] for name in _VERSION_FIELDS if facts.get(name)), facts.get("created", ""))
        )
    if size is None:
        raise DataError(f"{address}: the server does not report its size; download it first")
    return int(size), change


def _retry(attempt: Callable[[], _T]) -> _T:
    """Call a function and retry it after a pause if it fails with a temporary DownloadError."""
    for pause in _RETRY_SECONDS:
        try:
            return attempt()
        except OfflineError:
            raise
        except DownloadError as error:
            cause = error.__cause__
            if isinstance(cause, urllib.error.HTTPError) and cause.code in _PERMANENT_STATUSES:
                raise
            wait = retry_after_seconds(cause) if isinstance(cause, urllib.error.HTTPError) else None
            time.sleep(max(pause, min(wait or 0.0, MAX_RETRY_SECONDS)))
    return attempt()
