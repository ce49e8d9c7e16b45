"""Output folders, local or remote, with the few operations that parts and error tables need.

A local file is written under a temporary name and renamed. An object store has no renaming and no locks; there a file
is one object, which becomes visible when it is complete.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, BinaryIO, Protocol, cast

from oneclip.errors import OneCLIPError, OutputError
from oneclip.hub.addresses import open_filesystem
from oneclip.hub.atomic import replace_file

_PROBE = "_oneclip_was_here"
_BUFFER = 1 << 20  # bytes per read request to a store


class OutputFolder(Protocol):
    """Interface of local and remote output folders. `str` gives the location of the folder."""

    def names(self) -> list[str]:
        """List all files, sorted; empty if the folder does not exist."""

    def location(self, name: str) -> str:
        """Return the path or address of a file, for messages."""

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading, seekable. Raises OutputError if it cannot be read."""

    def write(self, name: str, write: Callable[[IO[bytes]], object]) -> None:
        """Write a complete file atomically. Raises OutputError."""

    def open_text(self, name: str) -> IO[str]:
        """Open a text file for writing from its beginning; it exists at the latest when it is closed."""

    def remove(self, name: str) -> None:
        """Remove a file if it exists."""

    def rename(self, name: str, to: str) -> None:
        """Rename a file."""


class LocalOutputFolder:
    """Folder on this machine; created when the first file is written.

    Args:
        path: of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def names(self) -> list[str]:
        """List all files."""
        return sorted(entry.name for entry in self.path.iterdir()) if self.path.is_dir() else []

    def location(self, name: str) -> str:
        """Return the path of a file."""
        return str(self.path / name)

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading."""
        try:
            return (self.path / name).open("rb")
        except OSError as error:
            raise OutputError(f"{self.path / name} could not be read: {error.strerror}") from error

    def write(self, name: str, write: Callable[[IO[bytes]], object]) -> None:
        """Write a file atomically."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.path} could not be created: {error.strerror}") from error
        with replace_file(self.path / name) as temporary, temporary.open("wb") as file:
            write(file)

    def open_text(self, name: str) -> IO[str]:
        """Open a text file for writing; its lines are visible while it grows."""
        return (self.path / name).open("w", encoding="utf-8", errors="backslashreplace", newline="")

    def remove(self, name: str) -> None:
        """Remove a file if it exists."""
        with suppress(FileNotFoundError):
            (self.path / name).unlink()

    def rename(self, name: str, to: str) -> None:
        """Rename a file."""
        (self.path / name).rename(self.path / to)


class RemoteOutputFolder:
    """Folder behind an address, accessed through fsspec.

    Args:
        address: `s3://bucket/vectors`, or any other scheme that fsspec supports.

    Raises:
        DataError: if fsspec does not support the scheme, or needs a package that is not installed.
        OfflineError: if the network is switched off.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self._system, self._root = open_filesystem(self.address)

    def __str__(self) -> str:
        return self.address

    def names(self) -> list[str]:
        """List all files."""

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

        return cast("list[str]", self._call("read", self.address, listed))

    def location(self, name: str) -> str:
        """Return the address of a file."""
        return f"{self.address}/{name}"

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading; its parts are fetched on demand."""
        opened = self._call("read", self.location(name), lambda: self._system.open(self._path(name), "rb"))
        return io.BufferedReader(_RemoteFile(opened, self, name), _BUFFER)

    def write(self, name: str, write: Callable[[IO[bytes]], object]) -> None:
        """Write a file."""
        content = io.BytesIO()
        write(content)

        def send() -> None:
            self._make_folder()
            self._system.pipe_file(self._path(name), content.getvalue())

        self._call("written", self.location(name), send)

    def open_text(self, name: str) -> IO[str]:
        """Open a text file for writing; it is uploaded when it is closed."""
        return _RemoteTextFile(
            lambda file: self._call("written", self.location(name), lambda: self._send(name, file))
        )

    def remove(self, name: str) -> None:
        """Remove a file if it exists."""

        def gone() -> None:
            with suppress(FileNotFoundError):
                self._system.rm_file(self._path(name))

        self._call("removed", self.location(name), gone)

    def rename(self, name: str, to: str) -> None:
        """Rename a file by copying it and removing the original."""
        self._call("renamed", self.location(name), lambda: self._system.mv(self._path(name), self._path(to)))

    def check_writable(self) -> None:
        """Check that the folder can be written, by writing and removing a file.

        Raises:
            OutputError: if it cannot.
        """
        self.write(_PROBE, lambda file: None)
        self.remove(_PROBE)

    def _send(self, name: str, file: IO[bytes]) -> None:
        self._make_folder()
        with self._system.open(self._path(name), "wb") as target:
            shutil.copyfileobj(file, target)

    def _make_folder(self) -> None:
        """Create the folder where the store has folders; never a bucket, whose name may be misspelled."""
        with suppress(FileExistsError, FileNotFoundError, NotImplementedError):
            self._system.mkdir(self._root, create_parents=False)

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _call(self, done: str, location: str, ask: Callable[[], Any]) -> Any:
        """Call the store and turn its many exceptions into OutputError."""
        try:
            return ask()
        except OneCLIPError:
            raise
        except Exception as error:  # the packages for some schemes do not raise OSError
            why = str(error) or type(error).__name__
            raise OutputError(
                f"{location} could not be {done}: {why}. Existing files are unchanged"
            ) from error


class _RemoteFile(io.RawIOBase):
    """File of a store whose read errors become OutputError, so that a failed connection is not taken for damage."""

    def __init__(self, file: Any, folder: RemoteOutputFolder, name: str) -> None:
        self._file, self._folder, self._location = file, folder, folder.location(name)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._folder._call("read", self._location, lambda: self._file.read(len(buffer)))
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


class _RemoteTextFile(io.TextIOWrapper):
    """Text that is collected in a temporary file and uploaded when it is closed."""

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
