"""A tar file to its members, from beginning to end, with an error for every way in which it may be cut short."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from lzma import LZMAError
from typing import BinaryIO

DAMAGE = (tarfile.TarError, EOFError, OSError, zlib.error, LZMAError, UnicodeError)
"""What reading a tar file that is cut short or no tar file raises."""


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
def open_tar(stream: BinaryIO, *, is_indexed: bool) -> Iterator[tarfile.TarFile]:
    """A tar file to go through once; what raises on the way is among `DAMAGE`.

    Args:
        stream: of it.
        is_indexed: whether the stream can seek and the tar is not compressed, so that contents can be passed over.
    """
    with tarfile.open(fileobj=stream, mode="r:" if is_indexed else "r|*", tarinfo=_Member) as archive:
        yield archive


def members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members of an open tar, which does not remember them."""
    for member in archive:
        vars(archive)["members"] = []
        yield member
