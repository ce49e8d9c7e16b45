"""Atomic writes and file locks.

A file or folder that is written here is either complete or absent, also after a crash; an existing one is replaced
only by a complete one.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from oneclip.errors import OneCLIPError, OutputError

if TYPE_CHECKING:
    from filelock import BaseFileLock

_DISK_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG}


@contextmanager
def replace_file(path: str | os.PathLike[str], *, durable: bool = True) -> Iterator[Path]:
    """Give a temporary path to write to, and rename it to `path` afterwards. A symbolic link stays a link.

    Args:
        path: of the file. Its permissions are kept if it exists.
        durable: whether to flush the file to disk first, so that it survives a power failure.

    Yields:
        A path in the same folder, `.NAME.XXXXXXXX.tmp`.

    Raises:
        OutputError: if writing fails, also with a RuntimeError of PyTorch; an existing file is untouched.
    """
    target = Path(os.path.realpath(path))
    temporary = _temporary(target)
    try:
        temporary.touch()
        mode = (target if target.exists() else temporary).stat().st_mode & 0o7777
        yield temporary
        temporary.chmod(mode)  # some writers create files that only their owner may read
        publish_file(temporary, target, durable=durable)
    except OneCLIPError:
        raise
    except (OSError, RuntimeError) as error:
        disk = error if isinstance(error, OSError) else error.__context__  # PyTorch hides the OSError
        why = getattr(disk, "strerror", None) or str(error).partition("\n")[0]
        raise OutputError(f"{path} could not be written: {why}. Existing files are unchanged") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def replace_folder(folder: str | os.PathLike[str], *, force: bool = False) -> Iterator[Path]:
    """Give a temporary folder to write files to, and rename it to `folder` afterwards.

    Args:
        folder: where the files belong; parent folders are created.
        force: replace an existing folder, if it contains only files that were written anew.

    Yields:
        An empty folder beside it.

    Raises:
        OutputError: if an existing folder may not be replaced, or writing fails; it is then untouched.
    """
    target = Path(os.path.realpath(folder))
    existing = names_in(target)
    if existing and not force:
        raise OutputError(f"{folder} exists and is not empty; it is replaced only with force=True")
    temporary = _temporary(target)
    old = temporary.with_suffix(".old")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if others := sorted(existing - names_in(temporary)):
            raise OutputError(
                f"{folder} also contains {', '.join(others[:5])}, which would be deleted; "
                "choose another folder, or move these files away"
            )
        publish_folder(temporary, target, old)
    except OneCLIPError:
        raise
    except OSError as error:
        raise OutputError(
            f"{folder} could not be written: {error.strerror}. Existing files are unchanged"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def publish_file(temporary: Path, target: Path, *, durable: bool = True) -> None:
    """Rename a finished file to its final name, replacing an existing one; `durable` as in `replace_file`."""
    if durable:
        _sync_file(temporary)
    os.replace(temporary, target)
    if durable:
        sync_folder(target.parent)


def publish_folder(temporary: Path, target: Path, old: Path) -> None:
    """Rename a finished folder to its final name, with all its content on disk.

    Args:
        temporary: the finished folder.
        target: its final name.
        old: name of an existing folder until the new one has its name; removed afterwards.

    Raises:
        OSError: if a rename fails; an existing folder then has its name again.
    """
    for path in temporary.rglob("*"):
        if path.is_file():
            _sync_file(path)
    sync_folder(temporary)
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)
    try:
        if target.exists():
            target.rename(old)
        temporary.rename(target)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        raise
    sync_folder(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def names_in(folder: Path) -> set[str]:
    """Return the names of files and folders in a folder; empty if it does not exist.

    Raises:
        OutputError: if the path is a file, or the folder cannot be read.
    """
    try:
        return {entry.name for entry in folder.iterdir()}
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror}") from error


def sync_folder(folder: Path) -> None:
    """Flush a folder to disk, so that a rename survives a power failure, on systems that support this."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(handle)


@contextmanager
def write_errors(target: str | os.PathLike[str]) -> Iterator[None]:
    """Turn errors of the file system into OutputError; our own errors and those of the network pass."""
    try:
        yield
    except OneCLIPError:
        raise
    except OSError as error:
        if error.errno in _DISK_FULL:
            message = f"{target} could not be written: {error.strerror}. Free some space and try again"
        elif error.errno in _NOT_ALLOWED and error.filename is not None:
            message = f"{target} could not be written: {error.strerror}: {error.filename}"
        else:
            raise
        raise OutputError(message) from error


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold a lock that excludes other processes of this machine; wait for it. Parent folders are created."""
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path):
        yield


def try_file_lock(path: Path) -> BaseFileLock | None:
    """Acquire a lock without waiting. The caller releases it.

    Returns:
        The lock, or None if another process holds it.

    Raises:
        OutputError: if the lock file cannot be written.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    except OSError as error:
        raise OutputError(f"{path.parent} cannot be written: {error.strerror}") from error
    return lock


def _temporary(target: Path) -> Path:
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")


def _sync_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
