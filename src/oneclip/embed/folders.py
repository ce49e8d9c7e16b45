"""A folder on this machine or behind an address: the few things that parts and tables of errors need of it.

On this machine a file is written beside its place and renamed. An object store has no renaming and no locks; there a
file is one object, and the store shows it when all of it has arrived.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, BinaryIO, Protocol, cast

from oneclip.checkpoint.write import replacing
from oneclip.errors import OneCLIPError, OutputError
from oneclip.hub.addresses import remote

_PROBE = "_oneclip_was_here"
_BUFFER = 1 << 20  # bytes that are asked of a store at once


class Folder(Protocol):
    """What both kinds of folders are. Names are of files in it, and `str` says where it is."""

    def names(self) -> list[str]:
        """Of all files in it, sorted; none if it is not there."""

    def place(self, name: str) -> str:
        """What messages call a file."""

    def open(self, name: str) -> BinaryIO:
        """A file to read, seekable. Raises an OutputError if it cannot be had."""

    def write(self, name: str, write: Callable[[IO[bytes]], object]) -> None:
        """Write a file, whole or not at all. Raises an OutputError."""

    def lines(self, name: str) -> IO[str]:
        """A text file to write from its beginning; it is there at the latest when it is closed."""

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

    def rename(self, name: str, to: str) -> None:
        """Give a file another name."""


class LocalFolder:
    """A folder on this machine; made when something is written.

    Args:
        path: of it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def names(self) -> list[str]:
        """Of all files in it."""
        return sorted(entry.name for entry in self.path.iterdir()) if self.path.is_dir() else []

    def place(self, name: str) -> str:
        """Its path."""
        return str(self.path / name)

    def open(self, name: str) -> BinaryIO:
        """A file to read."""
        try:
            return (self.path / name).open("rb")
        except OSError as error:
            raise OutputError(f"{self.path / name} could not be read: {error.strerror}") from error

    def write(self, name: str, write: Callable[[IO[bytes]], object]) -> None:
        """Write a file."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.path} could not be made: {error.strerror}") from error
        with replacing(self.path / name) as temporary, temporary.open("wb") as file:
            write(file)

    def lines(self, name: str) -> IO[str]:
        """A text file, for those who follow it."""
        return (self.path / name).open("w", encoding="utf-8", errors="backslashreplace", newline="")

    def remove(self, name: str) -> None:
        """Remove a file."""
        with suppress(FileNotFoundError):
            (self.path / name).unlink()

    def rename(self, name: str, to: str) -> None:
        """Give a file another name."""
        (self.path / name).rename(self.path / to)


class RemoteFolder:
    """What lies below an address, by way of fsspec.

    Args:
        address: `s3://bucket/vectors`, or whatever else fsspec knows.

    Raises:
        DataError: if fsspec does not know it, or lacks a package for it.
        OfflineError: while the network is switched off.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self._system, self._root = remote(self.address)

    def __str__(self) -> str:
        return self.address

    def names(self) -> list[str]:
        """Of all files in it."""

        def listed() -> list[str]:
            self._system.invalidate_cache()
            try:
                found = self._system.ls(self._root, detail=True)
            except FileNotFoundError:
                return []
            files = (entry["name"].rstrip("/") for entry in found if entry["type"] == "file")
            return sorted(
                path.rpartition("/")[2] for path in files if path.strip("/") != self._root.strip("/")
            )

        return cast("list[str]", self._asked("read", self.address, listed))

    def place(self, name: str) -> str:
        """Its address."""
        return f"{self.address}/{name}"

    def open(self, name: str) -> BinaryIO:
        """A file to read; its parts are fetched as they are asked for."""
        opened = self._asked("read", self.place(name), lambda: self._system.open(self._path(name), "rb"))
        return io.BufferedReader(_Guarded(opened, self, name), _BUFFER)

    def write(self, name: str, write: Callable[[IO[bytes]], object]) -> None:
        """Write a file."""
        content = io.BytesIO()
        write(content)

        def send() -> None:
            self._make()
            self._system.pipe_file(self._path(name), content.getvalue())

        self._asked("written", self.place(name), send)

    def lines(self, name: str) -> IO[str]:
        """A text file; it is sent when it is closed."""
        return _Sent(lambda file: self._asked("written", self.place(name), lambda: self._send(name, file)))

    def remove(self, name: str) -> None:
        """Remove a file."""

        def gone() -> None:
            with suppress(FileNotFoundError):
                self._system.rm_file(self._path(name))

        self._asked("removed", self.place(name), gone)

    def rename(self, name: str, to: str) -> None:
        """Give a file another name: it is copied, and the old one removed."""
        self._asked("renamed", self.place(name), lambda: self._system.mv(self._path(name), self._path(to)))

    def check_writable(self) -> None:
        """Find out, by writing, whether it may be written.

        Raises:
            OutputError: if not.
        """
        self.write(_PROBE, lambda file: None)
        self.remove(_PROBE)

    def _send(self, name: str, file: IO[bytes]) -> None:
        self._make()
        with self._system.open(self._path(name), "wb") as target:
            shutil.copyfileobj(file, target)

    def _make(self) -> None:
        """Make the folder where folders are made; never a bucket, which may be a misspelt one."""
        with suppress(FileExistsError, FileNotFoundError, NotImplementedError):
            self._system.mkdir(self._root, create_parents=False)

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _asked(self, done: str, place: str, ask: Callable[[], Any]) -> Any:
        """What a store answers; its many errors made one."""
        try:
            return ask()
        except OneCLIPError:
            raise
        except Exception as error:  # of whatever package brings the scheme; some raise no OSError
            why = str(error) or type(error).__name__
            raise OutputError(
                f"{place} could not be {done}: {why}. Nothing that was there is lost"
            ) from error


class _Guarded(io.RawIOBase):
    """A file of a store, which says in our words what goes wrong with it: no damage, but something to try again."""

    def __init__(self, file: Any, folder: RemoteFolder, name: str) -> None:
        self._file, self._folder, self._place = file, folder, folder.place(name)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._folder._asked("read", self._place, lambda: self._file.read(len(buffer)))
        buffer[: len(content)] = content
        return len(content)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return cast(int, self._file.seek(offset, whence))

    def tell(self) -> int:
        return cast(int, self._file.tell())

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


class _Sent(io.TextIOWrapper):
    """Text that collects in a temporary file and is handed on when it is closed."""

    def __init__(self, send: Callable[[IO[bytes]], Any]) -> None:
        self._collected, self._send = tempfile.TemporaryFile(), send  # noqa: SIM115
        super().__init__(
            cast(BinaryIO, self._collected), encoding="utf-8", errors="backslashreplace", newline=""
        )

    def close(self) -> None:
        if not self.closed:
            self.flush()
            self._collected.seek(0)
            try:
                self._send(self._collected)
            finally:
                super().close()
