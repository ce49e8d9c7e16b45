"""Tar files in webdataset's form to the pictures or captions in them.

The members of one sample share a name up to the first dot: `000123.jpg`, `000123.txt`, `000123.json`. A plain tar
on disk is read through the positions in its headers, so that many threads read at once and a member that is not
wanted costs nothing; a compressed or remote one is read from beginning to end.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from functools import partial

from oneclip.embed.items import Failure, Found, Item
from oneclip.hub.addresses import is_address, open_binary
from oneclip.hub.suffixes import NotRead, image_suffixes, is_image
from oneclip.hub.tars import DAMAGE, members, open_tar


class Shard:
    """One tar file; an item is called `shard.tar/member.jpg`.

    Args:
        place: its path or address.
        texts: take the captions (`.txt`) in it instead of the pictures.

    Attributes:
        not_read: images and videos in it that are not read here; known once it was gone through.
    """

    is_bulky = True

    def __init__(self, place: str, *, texts: bool) -> None:
        self.name, self._texts = place, texts
        self.not_read = NotRead()
        self._what = "captions (.txt)" if texts else "pictures (.jpg, .png, .webp, …)"

    def count(self) -> int | None:
        """Nobody knows before it is read."""
        return None

    def __iter__(self) -> Iterator[Found]:
        found = 0
        self.not_read.clear()
        try:
            for item in self._members():
                found += 1
                yield item
            if not found:
                told = f"; {self.not_read.sentence}" if self.not_read else ""
                yield Failure(self.name, f"{self.name}: a tar file without {self._what}{told}")
        except FileNotFoundError:
            yield Failure(self.name, f"{self.name}: no such file")
        except DAMAGE as error:
            yield Failure(
                self.name, f"{self.name} is truncated or damaged after {found} items of it: {error}"
            )

    def _members(self) -> Iterator[Item]:
        suffixes = frozenset((".txt",)) if self._texts else image_suffixes()
        is_indexed = not is_address(self.name) and self.name.endswith(".tar")
        with (
            open_binary(self.name, seekable=False) as stream,
            open_tar(stream, is_indexed=is_indexed) as archive,
        ):
            for member in members(archive):
                if not member.isreg():
                    continue
                if is_image(member.name, suffixes):
                    file = self.name if is_indexed else None  # else its content was read to list it
                    yield Item(f"{self.name}/{member.name}", self._reader(archive, member, is_indexed), file)
                elif not self._texts:
                    self.not_read.see(member.name)

    def _reader(self, archive: tarfile.TarFile, member: tarfile.TarInfo, is_indexed: bool) -> partial[bytes]:
        if is_indexed and not member.issparse():
            return partial(_read_at, self.name, member.offset_data, member.size)
        stream = archive.extractfile(member)
        content = stream.read() if stream is not None else b""
        return partial(bytes, content)


def _read_at(path: str, offset: int, size: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(offset)
        content = file.read(size)
    if len(content) < size:
        raise OSError(f"{path} ends in the middle of it")
    return content
