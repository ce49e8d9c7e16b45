"""Tar files in webdataset's form to the pictures or captions in them.

The members of one sample share a name up to the first dot: `000123.jpg`, `000123.txt`, `000123.json`. A plain tar
on disk is read through the positions in its headers, so that many threads read at once and a member that is not
wanted costs nothing; a compressed or remote one is read from beginning to end. Of members of one name the last counts,
as tar unpacks them, and links within the tar are followed: for that a tar on disk is gone through twice.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

from oneclip.embed.items import Failure, Found, Item
from oneclip.errors import ImageError
from oneclip.hub.addresses import is_address, open_binary, size_of_file
from oneclip.hub.file_types import NotRead, image_suffixes, is_image
from oneclip.hub.tars import DAMAGE, Links, compression, members, open_tar, path_of


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
        self._dangling: list[Failure] = []  # links that lead out of the tar
        self._what = "captions (.txt)" if texts else "pictures (.jpg, .png, .webp, …)"

    def count(self) -> int | None:
        """Nobody knows before it is read."""
        return None

    def __iter__(self) -> Iterator[Found]:
        found = 0
        self.not_read.clear()
        self._dangling.clear()
        try:
            for item in self._members():
                found += 1
                yield item
            yield from self._dangling
            if not found and not self._dangling:
                told = f"; {self.not_read.sentence}" if self.not_read else ""
                yield Failure(self.name, f"{self.name}: a tar file without {self._what}{told}")
        except FileNotFoundError:
            yield Failure(self.name, f"{self.name}: no such file")
        except ImageError as error:  # no regular file
            yield Failure(self.name, str(error))
        except DAMAGE as error:
            yield Failure(
                self.name, f"{self.name} is truncated or damaged after {found} items of it: {error}"
            )

    def _members(self) -> Iterator[Found]:
        suffixes = frozenset((".txt",)) if self._texts else image_suffixes()
        is_indexed, names = self._survey(suffixes)
        seen: set[str] = set()
        with self._opened(is_indexed) as archive:
            for number, member in enumerate(members(archive)):
                if names is not None:
                    wanted = names.get(number, ())
                elif not is_image(member.name, suffixes):
                    if member.isreg() and not self._texts:
                        self.not_read.see(member.name)
                    continue
                elif member.issym() or member.islnk():
                    yield self._failure(
                        member.name, "a link; they are followed in tar files on this machine alone"
                    )
                    continue
                elif path_of(member) in seen:
                    yield self._failure(
                        member.name, "in it twice; the first was taken, since the tar is far away"
                    )
                    continue
                else:
                    seen.add(path_of(member))
                    wanted = [member.name] if member.isreg() else []
                if wanted:
                    read = self._reader(archive, member, is_indexed)
                    file = self.name if is_indexed else None  # else its content was read to list it
                    for name in wanted:
                        yield Item(f"{self.name}/{name}", read, file, size=member.size)

    def _survey(self, suffixes: frozenset[str]) -> tuple[bool, dict[int, list[str]] | None]:
        """Go through the members once, without their contents.

        Returns:
            whether contents can be read by their positions; and for the number of each member that has a content we
            want, what it is called. None if that would mean to fetch all of it twice.
        """
        if is_address(self.name):
            return False, None
        size_of_file(self.name)
        with open(self.name, "rb") as file:
            is_indexed = not compression(file.read(8))
        numbers: dict[str, tuple[int, str]] = {}
        links = Links()
        # damage is reported in its place, when the contents are read
        with self._opened(is_indexed) as archive, suppress(*DAMAGE):
            for number, member in enumerate(members(archive)):
                links.see(member)
                numbers.pop(path_of(member), None)
                if member.isreg():
                    numbers[path_of(member)] = number, member.name
        names: dict[int, list[str]] = {}
        for number, name in numbers.values():
            if is_image(name, suffixes):
                names.setdefault(number, []).append(name)
            elif not self._texts:
                self.not_read.see(name)
        for path, target in links:
            if is_image(path, suffixes):
                if target in numbers:
                    names.setdefault(numbers[target][0], []).append(path)
                else:
                    self._dangling.append(self._failure(path, f"a link to {target}, which is not in it"))
        return is_indexed, names

    @contextmanager
    def _opened(self, is_indexed: bool) -> Iterator[tarfile.TarFile]:
        with (
            open_binary(self.name, seekable=False) as stream,
            open_tar(stream, is_indexed=is_indexed) as archive,
        ):
            yield archive

    def _failure(self, name: str, what: str) -> Failure:
        return Failure(f"{self.name}/{name}", f"{self.name}/{name} is {what}")

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
