"""Where files are kept, whether the network may be used, what is in a file, and what a disk that refuses says."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from oneclip.errors import OneCLIPError, OutputError

OFFLINE_SWITCHES = ("ONECLIP_OFFLINE", "HF_HUB_OFFLINE")
SWITCHED_OFF = f"the network is switched off ({' or '.join(OFFLINE_SWITCHES)})"
PULL_HINT = "On a machine with a network, `oneclip pull NAME --out FOLDER` writes a folder that loads here by its path"
_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG}


def offline() -> bool:
    """Whether the network is switched off, by ONECLIP_OFFLINE=1 or HF_HUB_OFFLINE=1."""
    return any(os.environ.get(name, "").lower() in ("1", "true", "yes", "on") for name in OFFLINE_SWITCHES)


def cache_folder() -> Path:
    """Where files from URLs are kept: `~/.cache/clip`, as OpenAI's package does.

    ONECLIP_CACHE names another folder, XDG_CACHE_HOME another place for `clip`. Files from the Hugging Face
    hub lie in the hub's own cache, which HF_HOME moves.
    """
    if folder := os.environ.get("ONECLIP_CACHE"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "clip"


@contextmanager
def writing(target: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what the file system refuses into OutputError; errors of ours and of the network pass."""
    try:
        yield
    except OneCLIPError:
        raise
    except OSError as error:
        if error.errno in _FULL:
            message = f"{target} could not be written: {error.strerror}. Free some space and try again"
        elif error.errno in _REFUSED and error.filename is not None:
            message = f"{target} could not be written: {error.strerror}: {error.filename}"
        else:
            raise
        raise OutputError(message) from error


def sha256_of(path: Path) -> str:
    """Checksum of a file, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(2**18))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()
