"""Copy, move and link single files without overwriting any."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Literal

from oneclip.errors import DataError
from oneclip.hub.cache import sha256_of

Action = Literal["copy", "move", "link"]
TEMPORARY = ".oneclip-sort.tmp"  # a copy that is not complete; one process at a time writes to a folder


def place_file(source: str, target: str, action: Action) -> None:
    """Copy, move or link one file. The target is complete or absent.

    A move to another file system copies, compares the copy with the original, and then deletes the original.

    Raises:
        FileExistsError: if the target exists.
        DataError: if a copy differs from its original, or a symbolic link should be moved.
        OSError: if a file cannot be read or written; nothing is lost.
    """
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
    if action == "link":
        os.symlink(source, target)
    elif action == "copy":
        _copy(source, target, verify=False)
    elif os.path.islink(source):
        raise DataError(f"{source} is a symbolic link; only files are moved")
    else:
        _move(source, target)


def is_unchanged(path: str, size: int, mtime_ns: int, sha256: str) -> bool:
    """Return whether a file has the content that is recorded; it is read if its time is another."""
    try:
        status = os.stat(path)
        if status.st_size != size:
            return False
        return status.st_mtime_ns == mtime_ns or sha256_of(Path(path)) == sha256
    except OSError:
        return False


def _move(source: str, target: str) -> None:
    try:
        os.rename(source, target)
        return
    except OSError as error:
        if error.errno != errno.EXDEV:  # another file system
            raise
    _copy(source, target, verify=True)
    try:
        os.unlink(source)
    except OSError:
        os.unlink(target)  # else a file that cannot be moved would exist twice
        raise


def _copy(source: str, target: str, *, verify: bool) -> None:
    """Copy a file with its times, under a temporary name first."""
    temporary = os.path.join(os.path.dirname(target), TEMPORARY)
    try:
        shutil.copyfile(source, temporary)
        with suppress(OSError):  # times and permissions that the other file system does not have
            shutil.copystat(source, temporary)
        if verify:
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            if sha256_of(Path(source)) != sha256_of(Path(temporary)):
                raise DataError(f"the copy of {source} differs from it; it was not moved")
        _publish(temporary, target)
    finally:
        with suppress(OSError):
            os.unlink(temporary)


def _publish(temporary: str, target: str) -> None:
    """Give a complete file its name; unlike a rename, a hard link fails if the name has appeared meanwhile."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        os.rename(temporary, target)
