"""Files of a data set by name: in a folder, below an address, or in a repository on the Hugging Face hub."""

from __future__ import annotations

import hashlib
import shutil
import urllib.error
from collections.abc import Callable
from pathlib import Path

from oneclip.errors import DownloadError, OfflineError
from oneclip.hub.addresses import is_http, open_binary
from oneclip.hub.atomic import replace_file
from oneclip.hub.cache import cache_folder
from oneclip.hub.huggingface import find_hub_file
from oneclip.hub.transfer import download

FindFile = Callable[[str], Path | None]
"""Returns the local path of a file of the data set, downloaded if necessary; None if there is no such file."""

MISSING_STATUSES = (403, 404, 410)  # object stores answer 403 for a file that does not exist


def files_in_folder(folder: Path) -> FindFile:
    """Find files in a local folder."""

    def find(name: str) -> Path | None:
        path = folder / name
        return path if path.is_file() else None

    return find


def files_on_hub(repo: str, revision: str | None = None) -> FindFile:
    """Find files in a data set on the hub, in the hub's own cache.

    Args:
        repo: `owner/name`.
        revision: branch, tag or commit.
    """

    def find(name: str) -> Path | None:
        return find_hub_file(f"datasets/{repo}", [name], revision=revision)

    return find


def files_at_address(address: str) -> FindFile:
    """Find files below an http(s) address, or one of another scheme that fsspec knows, in the cache of this library.

    A file that is in the cache is not requested again, so that the data set can be used offline.
    """
    address = address.rstrip("/")
    folder = cache_folder() / "datasets" / hashlib.sha256(address.encode()).hexdigest()[:16]

    def find(name: str) -> Path | None:
        place = (folder / name).parent
        try:
            if is_http(address):
                return download(f"{address}/{name}", place)
            return _copy(f"{address}/{name}", folder / name)
        except (FileNotFoundError, OfflineError):
            return None
        except DownloadError as error:
            cause = error.__cause__
            if isinstance(cause, urllib.error.HTTPError) and cause.code in MISSING_STATUSES:
                return None
            raise

    return find


def _copy(address: str, path: Path) -> Path:
    """Copy a remote file into the cache, unless it is there."""
    if not path.is_file():
        with open_binary(address, seekable=False) as stream:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replace_file(path) as temporary, temporary.open("wb") as file:
                shutil.copyfileobj(stream, file, 1 << 20)
    return path
