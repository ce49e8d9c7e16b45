"""Iterate over tar files with strict detection of truncation and damage."""

from __future__ import annotations

import posixpath
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from lzma import LZMAError
from typing import BinaryIO, Literal

TAR_ERRORS = (tarfile.TarError, EOFError, OSError, zlib.error, LZMAError, UnicodeError)
"""Exceptions raised for a truncated, damaged or invalid tar file."""


_COMPRESSED = ((b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"\xfd7zXZ\0", "xz"), (b"\x28\xb5\x2f\xfd", "zstd"))
_MAX_LINKS = 40  # links to follow in a row, as in Linux

# `tarfile` is shadowed in the class below, and the subclasses of HeaderError are not public.
_HeaderError, _ReadError, _END = tarfile.HeaderError, tarfile.ReadError, "EOFHeaderError"


class _StrictTarInfo(tarfile.TarInfo):
    """Header of a member. Plain tarfile treats a damaged or missing header after the first as the end of the file."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> _StrictTarInfo:
        try:
            return super().fromtarfile(tarfile)
        except _HeaderError as error:
            if type(error).__name__ == _END:
                raise
            raise _ReadError(
                f"{error} at byte {tarfile.offset}, where a member or the end of the archive was expected"
            ) from error


@contextmanager
def open_tar(stream: BinaryIO, *, is_indexed: bool, is_plain: bool = False) -> Iterator[tarfile.TarFile]:
    """Open a tar file for a single pass; everything it raises is in `TAR_ERRORS`.

    Args:
        stream: of the file.
        is_indexed: whether the stream can seek and is not compressed, so that contents can be skipped.
        is_plain: whether to refuse compression, because byte positions are needed.
    """
    mode: Literal["r:", "r|", "r|*"] = "r:" if is_indexed else "r|" if is_plain else "r|*"
    with tarfile.open(fileobj=stream, mode=mode, tarinfo=_StrictTarInfo) as archive:
        yield archive


def iter_members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the members of an open tar without keeping them in memory."""
    for member in archive:
        vars(archive)["members"] = []
        yield member


def detect_compression(head: bytes) -> str:
    """Return the compression of a file by its first bytes, or "" if it is not a known one."""
    return next((name for start, name in _COMPRESSED if head.startswith(start)), "")


def unpack_path(member: tarfile.TarInfo) -> str:
    """Return the path that a member unpacks to. Of several members with one path, the last one counts, as in tar."""
    return posixpath.normpath(member.name)


class TarLinks:
    """Symbolic and hard links in a tar by path; later members replace earlier ones."""

    def __init__(self) -> None:
        self._targets: dict[str, str] = {}

    def add(self, member: tarfile.TarInfo) -> None:
        """Record a member."""
        path = unpack_path(member)
        if member.issym():
            self._targets[path] = posixpath.normpath(posixpath.join(posixpath.dirname(path), member.linkname))
        elif member.islnk() and posixpath.normpath(member.linkname) != path:
            self._targets[path] = posixpath.normpath(member.linkname)
        else:
            self._targets.pop(path, None)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Yield the path of each link and the path it finally leads to."""
        for path in self._targets:
            target = path
            for _ in range(_MAX_LINKS):
                if target not in self._targets:
                    break
                target = self._targets[target]
            yield path, target
