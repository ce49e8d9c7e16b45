"""Parts of a file, on disk or behind an address, and what tells that it is no longer the same."""

from __future__ import annotations

import os
import time
import urllib.error
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from oneclip.errors import DataError, DownloadError, OfflineError
from oneclip.hub.addresses import answering, is_address, is_of_the_web, remote, request
from oneclip.hub.http import LONGEST_PAUSE, PAUSES, wait_asked

GAP = 1 << 16  # bytes between two parts that are read along, so that both come at once
_PAUSES = PAUSES
_FINAL = (400, 401, 403, 404, 405, 410, 416)  # answers that another attempt does not change
# What file systems call that which changes with a file's content; the first that one has.
_CHANGES = ("ETag", "etag", "md5Hash", "generation", "content_md5", "mtime", "LastModified", "last_modified")

Range = tuple[int, int]
"""From the first byte to the one after the last."""

_T = TypeVar("_T")


def stamp(place: str) -> tuple[int, str]:
    """The size of a file in bytes, and text that changes when its content does.

    Raises:
        DataError: if there is no such file.
        DownloadError: if an address does not answer.
    """
    try:
        if not is_address(place):
            status = os.stat(place)
            return status.st_size, str(status.st_mtime_ns)
        return _again(lambda: _remote_stamp(place))
    except FileNotFoundError as error:
        raise DataError(f"{place}: no such file") from error


def read_ranges(place: str, ranges: Sequence[Range]) -> list[bytes]:
    """Parts of a file, in the order they are asked for; those close to each other are read at once.

    Raises:
        DataError: if the file ends before one of them does, or is not there any more.
        DownloadError: if an address does not give them, after four attempts.
    """
    merged = _merged(ranges)
    try:
        if is_address(place):
            read = _read_web if is_of_the_web(place) else _read_remote
            contents = _again(lambda: read(place, merged))
        else:
            contents = _read_file(place, merged)
    except FileNotFoundError as error:
        raise DataError(f"{place}: no such file any more") from error
    found = []
    for start, stop in ranges:
        index = next(i for i, (first, last) in enumerate(merged) if first <= start and stop <= last)
        part = contents[index][start - merged[index][0] : stop - merged[index][0]]
        if len(part) < stop - start:
            raise DataError(f"{place} ends in the middle of what should be bytes {start} to {stop} of it")
        found.append(part)
    return found


def _merged(ranges: Sequence[Range]) -> list[Range]:
    merged: list[Range] = []
    for start, stop in sorted(ranges):
        if merged and start <= merged[-1][1] + GAP:
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
    filesystem, path = remote(address)
    starts, stops = map(list, zip(*ranges, strict=True))
    with answering(address):
        return cast(list[bytes], filesystem.cat_ranges([path] * len(ranges), starts, stops, on_error="raise"))


def _read_web(address: str, ranges: Sequence[Range]) -> list[bytes]:
    contents = []
    for start, stop in ranges:
        part = {"Range": f"bytes={start}-{stop - 1}"}
        with request(address, part, once=True) as answer, answering(address):
            if answer.status != 206:
                raise DataError(
                    f"{address}: the server does not give parts of files (it answers {answer.status}, expected 206); "
                    "download it, or serve it from object storage"
                )
            contents.append(cast(bytes, answer.read()))
    return contents


def _remote_stamp(address: str) -> tuple[int, str]:
    if is_of_the_web(address):
        with request(address, method="HEAD", once=True) as answer:
            size = answer.headers.get("Content-Length")
            change = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
    else:
        filesystem, path = remote(address)
        with answering(address):
            facts: dict[str, Any] = filesystem.info(path)
        size = facts.get("size")
        change = str(next((facts[name] for name in _CHANGES if facts.get(name)), facts.get("created", "")))
    if size is None:
        raise DataError(f"{address}: the server does not say how large it is; download it first")
    return int(size), change


def _again(attempt: Callable[[], _T]) -> _T:
    """What an attempt gives; those that fail on the way are repeated after a pause."""
    for pause in _PAUSES:
        try:
            return attempt()
        except OfflineError:
            raise
        except DownloadError as error:
            cause = error.__cause__
            if isinstance(cause, urllib.error.HTTPError) and cause.code in _FINAL:
                raise
            wait = wait_asked(cause) if isinstance(cause, urllib.error.HTTPError) else None
            time.sleep(max(pause, min(wait or 0.0, LONGEST_PAUSE)))
    return attempt()
