"""Read local files and remote addresses: http(s), and every scheme that fsspec knows (s3://, gs://, …).

`location` is a path or an address throughout.
"""

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
from oneclip.hub.cache import OFFLINE_REASON, offline
from oneclip.hub.http import complete_body, escape_url, retry_while_busy

TIMEOUT = 30.0  # seconds without a byte, after which an address counts as unreadable
MAX_IMAGE_BYTES = 1 << 30  # bytes of one file from the web: an image is never larger
_SCHEME = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]+://")


def is_address(location: str) -> bool:
    """Return whether a location is an address (`scheme://…`) rather than a path."""
    return bool(_SCHEME.match(location))


def is_http(location: str) -> bool:
    """Return whether an address is served over HTTP or HTTPS."""
    return location.lower().startswith(("http://", "https://"))


def with_slashes(path: str) -> str:
    """Replace backslashes by slashes if only that finds a file: tables are also written on Windows."""
    if "\\" in path and not os.path.lexists(path) and os.path.exists(slashed := path.replace("\\", "/")):
        return slashed
    return path


def read_bytes(location: str) -> bytes:
    """Read all bytes of a file.

    Raises:
        ImageNotFoundError: if the file does not exist.
        ImageError: if it is a folder or a device, is larger than 1 GiB, or its name is not a valid path.
        DownloadError: if an address cannot be fetched.
        OSError: if it cannot be read.
    """
    if is_address(location):
        return _fetch(location)
    regular_file_size(location)
    with open(location, "rb") as file:
        content = file.read(MAX_IMAGE_BYTES + 1)
    if len(content) > MAX_IMAGE_BYTES:
        raise ImageError(f"{location} is larger than {MAX_IMAGE_BYTES >> 30} GiB; expected an image")
    return content


def regular_file_size(path: str) -> int:
    """Return the size in bytes of a regular local file.

    Raises:
        ImageNotFoundError: if the file does not exist.
        ImageError: if it is a folder, or a pipe, socket or device, which may never end.
    """
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ImageNotFoundError(f"{path}: no such file") from error
    except ValueError as error:  # a null character, or half of a pair of surrogates
        raise ImageError(f"{path!r} is not a path: {error}") from error
    if stat.S_ISDIR(found.st_mode):
        raise ImageError(f"{path} is a folder; expected an image file")
    if not stat.S_ISREG(found.st_mode):
        kinds = ((stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
        kind = next((name for is_kind, name in kinds if is_kind(found.st_mode)), "a device")
        raise ImageError(f"{path} is {kind}; expected a regular file")
    return found.st_size


def open_binary(location: str, *, seekable: bool = True) -> BinaryIO:
    """Open a location as a binary stream, which the caller closes.

    Args:
        location: path or address.
        seekable: whether the stream must be able to seek; HTTP content is then fetched first.
    """
    if not is_address(location):
        try:
            return open(location, "rb")
        except ValueError as error:
            raise DataError(f"{location!r} is not a valid path: {error}") from error
    if is_http(location):
        return io.BytesIO(_fetch(location)) if seekable else cast(BinaryIO, http_request(location))
    filesystem, path = open_filesystem(location)
    with fsspec_errors(location):
        return cast(BinaryIO, filesystem.open(path, "rb"))


def expand_pattern(pattern: str) -> list[str]:
    """Expand braces (`{000..010}`, `{a,b}`) and wildcards (`*`, `?`, `[…]`, `**`) into sorted locations.

    A file that exists under the literal name is returned unchanged, whatever characters the name contains.

    Raises:
        DataError: if a pattern matches nothing.
    """
    if not is_address(pattern) and os.path.exists(pattern):
        return [pattern]
    locations = []
    for name in _braces(pattern):
        if not any(character in name for character in "*?[") or name.lower().startswith(("http:", "https:")):
            locations.append(name)
            continue
        if is_address(name):
            filesystem, path = open_filesystem(name)
            with fsspec_errors(name):
                found = [filesystem.unstrip_protocol(hit) for hit in filesystem.glob(path)]
        else:
            found = glob.glob(name, recursive=True)
        if not found:
            raise DataError(f"{name}: no file matches this pattern")
        locations += sorted(found)
    return locations


def is_remote_folder(location: str) -> bool:
    """Return whether an address is a folder that can be listed; HTTP addresses never are."""
    if not is_address(location) or is_http(location):
        return False
    filesystem, path = open_filesystem(location)
    with fsspec_errors(location):
        return bool(filesystem.isdir(path))


def list_remote_folder(location: str) -> list[str]:
    """List the addresses of all files below a remote folder, sorted, without hidden files and folders."""
    filesystem, path = open_filesystem(location)
    with fsspec_errors(location):
        found = filesystem.find(path)
    root = path.strip("/")
    paths = sorted(hit.strip("/").removeprefix(root).strip("/") for hit in found)
    return [f"{location.rstrip('/')}/{p}" for p in paths if not any(n.startswith(".") for n in p.split("/"))]


def _braces(pattern: str) -> list[str]:
    """Expand braces as a shell does: `{01..03}` counts and keeps leading zeros, `{a,b}` chooses."""
    match = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)
    if match is None:
        return [pattern]
    first, last, choices = match.groups()
    if choices is not None:
        middles = choices.split(",")
    else:
        if int(last) < int(first):
            raise DataError(
                f"{pattern}: {match[0]} counts from {first} to {last}; the second number must not be smaller"
            )
        middles = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    ends = _braces(pattern[match.end() :])
    return [pattern[: match.start()] + middle + end for middle in middles for end in ends]


def _fetch(address: str) -> bytes:
    if not is_http(address):
        filesystem, path = open_filesystem(address)
        with fsspec_errors(address):
            return cast(bytes, filesystem.cat_file(path))
    try:
        with http_request(address) as answer:
            content = complete_body(answer.read(MAX_IMAGE_BYTES + 1), answer, MAX_IMAGE_BYTES)
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, DownloadError) and address in str(error):
            raise
        raise DownloadError(f"{address}: {error}") from error
    if len(content) > MAX_IMAGE_BYTES:
        raise DownloadError(f"{address}: larger than {MAX_IMAGE_BYTES >> 30} GiB, too large for an image")
    return content


def http_request(
    address: str, headers: Mapping[str, str] | None = None, method: str = "GET", *, once: bool = False
) -> Any:
    """Send an HTTP request and return the response, of which only the headers have been read.

    Args:
        address: as typed into a browser.
        headers: of the request.
        method: of the request.
        once: for callers that retry themselves; otherwise a busy server is retried here.

    Raises:
        DownloadError: if the server does not answer or refuses the request.
    """
    _check_online(address)
    try:
        question = urllib.request.Request(
            escape_url(address), headers={"User-Agent": "oneclip", **(headers or {})}, method=method
        )
        ask = partial(urllib.request.urlopen, question, timeout=TIMEOUT)
        return ask() if once else retry_while_busy(ask)
    except urllib.error.HTTPError as error:
        raise DownloadError(f"{address}: the server answers {error.code} ({error.reason})") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise DownloadError(f"{address}: {getattr(error, 'reason', None) or error}") from error


def open_filesystem(address: str) -> tuple[Any, str]:
    """Return fsspec's file system for an address, and the path in it.

    Raises:
        DataError: if fsspec does not support the scheme, or needs a package that is not installed.
        OfflineError: if the network is switched off.
    """
    scheme = address.partition(":")[0].lower()
    if scheme not in ("file", "local", "memory"):
        _check_online(address)
    try:
        filesystem, path = importlib.import_module("fsspec.core").url_to_fs(address)
    except ImportError as error:  # fsspec names the package for this scheme
        raise DataError(f"{address}: {error}") from error
    except ValueError as error:
        raise DataError(f"{address}: {scheme}:// is not a scheme that fsspec supports: {error}") from error
    return filesystem, path


@contextmanager
def fsspec_errors(location: str) -> Iterator[None]:
    """Turn the many exceptions of fsspec and its back ends into DownloadError; ours and FileNotFoundError pass."""
    try:
        yield
    except (OneCLIPError, FileNotFoundError):
        raise
    except Exception as error:  # not all back ends raise OSError
        raise DownloadError(f"{location}: {error or type(error).__name__}") from error


def _check_online(address: str) -> None:
    if offline():
        raise OfflineError(f"{address}: {OFFLINE_REASON}")
