"""A tar file to its members, from beginning to end, with an error for every way in which it may be cut short."""

from __future__ import annotations

import posixpath
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from lzma import LZMAError
from typing import BinaryIO, Literal

DAMAGE = (tarfile.TarError, EOFError, OSError, zlib.error, LZMAError, UnicodeError)
"""What reading a tar file that is cut short or no tar file raises."""


_COMPRESSED = ((b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"\xfd7zXZ\0", "xz"), (b"\x28\xb5\x2f\xfd", "zstd"))
_MOST_LINKS = 40  # that lead from one to the next, as of Linux

# The class below has another `tarfile`, and the kinds of HeaderError are not public.
_HeaderError, _ReadError, _END = tarfile.HeaderError, tarfile.ReadError, "EOFHeaderError"


class _Member(tarfile.TarInfo):
    """A header. tarfile takes one that is damaged, cut or missing for the end, unless it is the first."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> _Member:
        try:
            return super().fromtarfile(tarfile)
        except _HeaderError as error:
            if type(error).__name__ == _END:
                raise
            raise _ReadError(
                f"{error} at byte {tarfile.offset}, where a member or the end should be"
            ) from error


@contextmanager
def open_tar(stream: BinaryIO, *, is_indexed: bool, is_plain: bool = False) -> Iterator[tarfile.TarFile]:
    """A tar file to go through once; what raises on the way is among `DAMAGE`.

    Args:
        stream: of it.
        is_indexed: whether the stream can seek and the tar is not compressed, so that contents can be passed over.
        is_plain: whether a compressed tar is refused, since positions in it are wanted.
    """
    mode: Literal["r:", "r|", "r|*"] = "r:" if is_indexed else "r|" if is_plain else "r|*"
    with tarfile.open(fileobj=stream, mode=mode, tarinfo=_Member) as archive:
        yield archive


def members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members of an open tar, which does not remember them."""
    for member in archive:
        vars(archive)["members"] = []
        yield member


def compression(head: bytes) -> str:
    """What a file is compressed with, whatever it is called, from its first bytes; "" if with nothing known."""
    return next((name for start, name in _COMPRESSED if head.startswith(start)), "")


def path_of(member: tarfile.TarInfo) -> str:
    """Where a member is unpacked to: of two with the same path the last one stays, as tar does it."""
    return posixpath.normpath(member.name)


class Links:
    """The links in a tar, by their paths; later members replace earlier ones, of whatever kind."""

    def __init__(self) -> None:
        self._targets: dict[str, str] = {}

    def see(self, member: tarfile.TarInfo) -> None:
        """Note a member."""
        path = path_of(member)
        if member.issym():
            self._targets[path] = posixpath.normpath(posixpath.join(posixpath.dirname(path), member.linkname))
        elif member.islnk() and posixpath.normpath(member.linkname) != path:
            self._targets[path] = posixpath.normpath(member.linkname)
        else:
            self._targets.pop(path, None)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Paths of links, and of what they lead to in the end."""
        for path in self._targets:
            target = path
            for _ in range(_MOST_LINKS):
                if target not in self._targets:
                    break
                target = self._targets[target]
            yield path, target
