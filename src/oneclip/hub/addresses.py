"""A path or an address to its bytes: local files, http(s), and whatever fsspec knows (s3://, gs://, …)."""

from __future__ import annotations

import glob
import http.client
import importlib
import io
import os
import re
import stat
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, BinaryIO, cast

from oneclip.errors import (
    DataError,
    DownloadError,
    ImageError,
    ImageNotFoundError,
    OfflineError,
    OneCLIPError,
)
from oneclip.hub.cache import SWITCHED_OFF, offline
from oneclip.hub.http import escaped, while_busy, whole

TIMEOUT = 30.0  # seconds without a byte, after which an address counts as unreadable
LARGEST = 1 << 30  # bytes of one file from the web: more is no picture
_SCHEME = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]+://")


def is_address(place: str) -> bool:
    """Whether this is `scheme://…` rather than a path."""
    return bool(_SCHEME.match(place))


def is_of_the_web(place: str) -> bool:
    """Whether this is an address that a web server answers for."""
    return place.lower().startswith(("http://", "https://"))


def with_slashes(path: str) -> str:
    """A path whose backslashes separate folders, where only that finds something: tables are made on Windows, too."""
    if "\\" in path and not os.path.lexists(path) and os.path.exists(slashed := path.replace("\\", "/")):
        return slashed
    return path


def read_bytes(place: str) -> bytes:
    """All bytes of a file.

    Raises:
        ImageNotFoundError: if there is no such file.
        ImageError: if it is a folder or a device, if it has more than a GiB, or if its name is not a path.
        DownloadError: if an address does not give it.
        OSError: if it cannot be read.
    """
    if is_address(place):
        return _fetch(place)
    size_of_file(place)
    with open(place, "rb") as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ImageError(f"{place} has more than {LARGEST >> 30} GiB, which is no picture")
    return content


def size_of_file(path: str) -> int:
    """The size in bytes of a file on this machine that can be read to its end.

    Raises:
        ImageNotFoundError: if there is no such file.
        ImageError: if it is a folder, or a pipe, socket or device, whose end may never come.
    """
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ImageNotFoundError(f"{path}: no such file") from error
    except ValueError as error:  # a null character, or half of a pair of surrogates
        raise ImageError(f"{path!r} is not a path: {error}") from error
    if stat.S_ISDIR(found.st_mode):
        raise ImageError(f"{path} is a folder; give the images in it")
    if not stat.S_ISREG(found.st_mode):
        kinds = ((stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
        kind = next((name for is_kind, name in kinds if is_kind(found.st_mode)), "a device")
        raise ImageError(f"{path} is {kind}; expected a regular file")
    return found.st_size


def open_binary(place: str, *, seekable: bool = True) -> BinaryIO:
    """A stream of a file, to be closed by the caller; to be `seekable`, what comes by http(s) is fetched first."""
    if not is_address(place):
        try:
            return open(place, "rb")
        except ValueError as error:
            raise DataError(f"{place!r} is no path of a file: {error}") from error
    if is_of_the_web(place):
        return io.BytesIO(_fetch(place)) if seekable else cast(BinaryIO, request(place))
    filesystem, path = remote(place)
    with answering(place):
        return cast(BinaryIO, filesystem.open(path, "rb"))


def expand(pattern: str) -> list[str]:
    """`{000..010}` and `{a,b}` written out, and `*`, `?`, `[…]`, `**` replaced by what is there, sorted.

    A name that exists stands for itself, whatever characters it has.

    Raises:
        DataError: for a pattern that fits nothing.
    """
    if not is_address(pattern) and os.path.exists(pattern):
        return [pattern]
    places = []
    for name in _braces(pattern):
        if not any(character in name for character in "*?[") or name.lower().startswith(("http:", "https:")):
            places.append(name)
            continue
        if is_address(name):
            filesystem, path = remote(name)
            with answering(name):
                found = [filesystem.unstrip_protocol(hit) for hit in filesystem.glob(path)]
        else:
            found = glob.glob(name, recursive=True)
        if not found:
            raise DataError(f"{name}: no file matches this pattern")
        places += sorted(found)
    return places


def is_remote_folder(place: str) -> bool:
    """Whether an address is that of a folder, so that there is something below it; those of the web never are."""
    if not is_address(place) or is_of_the_web(place):
        return False
    filesystem, path = remote(place)
    with answering(place):
        return bool(filesystem.isdir(path))


def below(place: str) -> list[str]:
    """The addresses of all files in a remote folder and the folders in it, sorted, without those that are hidden."""
    filesystem, path = remote(place)
    with answering(place):
        found = filesystem.find(path)
    root = path.strip("/")
    paths = sorted(hit.strip("/").removeprefix(root).strip("/") for hit in found)
    return [f"{place.rstrip('/')}/{p}" for p in paths if not any(n.startswith(".") for n in p.split("/"))]


def _braces(pattern: str) -> list[str]:
    """What a shell makes of braces: `{01..03}` counts and keeps its zeros, `{a,b}` chooses."""
    match = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)
    if match is None:
        return [pattern]
    first, last, choices = match.groups()
    if choices is not None:
        middles = choices.split(",")
    else:
        if int(last) < int(first):
            raise DataError(f"{pattern}: {match[0]} counts from {first} to {last}, which is less")
        middles = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    ends = _braces(pattern[match.end() :])
    return [pattern[: match.start()] + middle + end for middle in middles for end in ends]


def _fetch(address: str) -> bytes:
    if not is_of_the_web(address):
        filesystem, path = remote(address)
        with answering(address):
            return cast(bytes, filesystem.cat_file(path))
    try:
        with request(address) as answer:
            content = whole(answer.read(LARGEST + 1), answer, LARGEST)
    except (OSError, http.client.HTTPException) as error:  # in the middle of it
        if isinstance(error, DownloadError) and address in str(error):
            raise
        raise DownloadError(f"{address}: {error}") from error
    if len(content) > LARGEST:
        raise DownloadError(f"{address}: larger than {LARGEST >> 30} GiB, too large for an image")
    return content


def request(
    address: str, headers: Mapping[str, str] | None = None, method: str = "GET", *, once: bool = False
) -> Any:
    """The answer of a web server, of which nothing but the head is read yet.

    Args:
        address: as in a browser.
        headers: of the request.
        method: of the request.
        once: for callers that try again themselves; otherwise a server that is busy is asked again.

    Raises:
        DownloadError: if it does not answer, or refuses.
    """
    _check_online(address)
    try:
        question = urllib.request.Request(
            escaped(address), headers={"User-Agent": "oneclip", **(headers or {})}, method=method
        )
        ask = partial(urllib.request.urlopen, question, timeout=TIMEOUT)
        return ask() if once else while_busy(ask)
    except urllib.error.HTTPError as error:
        raise DownloadError(f"{address}: the server answers {error.code} ({error.reason})") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise DownloadError(f"{address}: {getattr(error, 'reason', None) or error}") from error


def remote(address: str) -> tuple[Any, str]:
    """fsspec's file system for an address, and the path in it.

    Raises:
        DataError: if fsspec does not know it, or lacks a package for it.
        OfflineError: while the network is switched off.
    """
    scheme = address.partition(":")[0].lower()
    if scheme not in ("file", "local", "memory"):
        _check_online(address)
    try:
        filesystem, path = importlib.import_module("fsspec.core").url_to_fs(address)
    except ImportError as error:  # fsspec says which package brings this scheme
        raise DataError(f"{address}: {error}") from error
    except ValueError as error:
        raise DataError(f"{address}: {scheme}:// is not a scheme that fsspec supports: {error}") from error
    return filesystem, path


@contextmanager
def answering(place: str) -> Iterator[None]:
    """What is asked of fsspec; the many ways in which its packages fail made one."""
    try:
        yield
    except (OneCLIPError, FileNotFoundError):
        raise
    except Exception as error:  # not all of them raise OSErrors
        raise DownloadError(f"{place}: {error or type(error).__name__}") from error


def _check_online(address: str) -> None:
    if offline():
        raise OfflineError(f"{address}: {SWITCHED_OFF}")
