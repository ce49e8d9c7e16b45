"""Tar files in webdataset format with images or texts.

The members of a sample share their name up to the first dot: `000123.jpg`, `000123.txt`, `000123.json`. A plain local
tar is read by byte positions, so that many threads read at once and unwanted members cost nothing; a compressed or
remote one is read from beginning to end. Links within the tar are followed; for them, a remote tar is read a second
time. If several members have one name, the last one counts, as in tar; of a remote tar the first one counts, and the
others are failures.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial

from oneclip.embed.items import Failure, Found, Item
from oneclip.errors import ImageError
from oneclip.hub.addresses import is_address, open_binary, regular_file_size
from oneclip.hub.file_types import UnsupportedFiles, image_suffixes, is_image
from oneclip.hub.tars import TAR_ERRORS, TarLinks, detect_compression, iter_members, open_tar, unpack_path

REPEATED = (
    "in the tar twice; the first was used, because the tar is read while it is downloaded. Download it first to use "
    "the last, as tar does"
)


class TarSource:
    """Source of the members of a tar file; an item is named `shard.tar/member.jpg`.

    Args:
        location: path or address.
        texts: use the texts (`.txt`) instead of the images.

    Attributes:
        not_read: images and videos that cannot be read here; known after iterating.
    """

    is_bulky = True

    def __init__(self, location: str, *, texts: bool) -> None:
        self.name, self._texts = location, texts
        self.not_read = UnsupportedFiles()
        self._dangling: list[Failure] = []  # links that lead out of the tar
        self._what = "texts (.txt)" if texts else "images (.jpg, .png, .webp, …)"

    def count(self) -> int | None:
        """Return None: the count is unknown before the file is read."""
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
                unsupported = f"; {self.not_read.sentence}" if self.not_read else ""
                yield Failure(self.name, f"{self.name}: a tar file without {self._what}{unsupported}")
        except FileNotFoundError:
            yield Failure(self.name, f"{self.name}: no such file")
        except ImageError as error:  # not a regular file
            yield Failure(self.name, str(error))
        except TAR_ERRORS as error:
            yield Failure(self.name, f"{self.name} is truncated or damaged after {found} items: {error}")

    def _members(self) -> Iterator[Found]:
        suffixes = frozenset((".txt",)) if self._texts else image_suffixes()
        members = _Members()
        streamed: set[str] = set()  # paths of a remote tar whose members were yielded
        names: dict[int, list[str]] = {}
        is_remote, is_indexed = is_address(self.name), False
        if is_remote:
            yield from self._stream(members, streamed, suffixes)
        else:
            is_indexed = self._survey(members)
            names = self._unpacked(members, suffixes)
        for path, target in members.links:
            if is_image(path, suffixes):
                if path in streamed:
                    self._dangling.append(self._failure(path, REPEATED))
                elif target in members.places:
                    names.setdefault(members.places[target][0], []).append(path)
                else:
                    self._dangling.append(self._failure(path, f"a link to {target}, which is not in the tar"))
        if names or not is_remote:
            yield from self._items(names, is_indexed)

    def _stream(self, members: _Members, streamed: set[str], suffixes: frozenset[str]) -> Iterator[Found]:
        """Yield the regular members of a remote tar while it is read for the first time."""
        with self._opened(is_indexed=False) as archive:
            for number, member in enumerate(iter_members(archive)):
                members.add(number, member)
                if not member.isreg():
                    continue
                if not is_image(member.name, suffixes):
                    if not self._texts:
                        self.not_read.count_file(member.name)
                elif unpack_path(member) in streamed:
                    yield self._failure(member.name, REPEATED)
                else:
                    streamed.add(unpack_path(member))
                    yield self._item(archive, member, member.name, is_indexed=False)

    def _survey(self, members: _Members) -> bool:
        """Read the headers of a local tar, and return whether its contents can be read by position."""
        regular_file_size(self.name)
        with open(self.name, "rb") as file:
            is_indexed = not detect_compression(file.read(8))
        # damage is reported in the second pass, when contents are read
        with self._opened(is_indexed) as archive, suppress(*TAR_ERRORS):
            for number, member in enumerate(iter_members(archive)):
                members.add(number, member)
        return is_indexed

    def _unpacked(self, members: _Members, suffixes: frozenset[str]) -> dict[int, list[str]]:
        """Return the numbers of the regular members that are wanted, with their names; count other images."""
        names: dict[int, list[str]] = {}
        for number, name in members.places.values():
            if is_image(name, suffixes):
                names.setdefault(number, []).append(name)
            elif not self._texts:
                self.not_read.count_file(name)
        return names

    def _items(self, names: dict[int, list[str]], is_indexed: bool) -> Iterator[Item]:
        """Yield items for members by number; several names are links to one member."""
        with self._opened(is_indexed) as archive:
            for number, member in enumerate(iter_members(archive)):
                if number in names:
                    first, *others = names[number]
                    item = self._item(archive, member, first, is_indexed)
                    yield item
                    for name in others:
                        yield replace(item, name=f"{self.name}/{name}", key="")

    def _item(self, archive: tarfile.TarFile, member: tarfile.TarInfo, name: str, is_indexed: bool) -> Item:
        read = self._reader(archive, member, is_indexed)
        file = self.name if is_indexed else None  # otherwise listing has read its content
        return Item(f"{self.name}/{name}", read, file, size=member.size)

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


class _Members:
    """Members of a tar that exist after unpacking.

    Attributes:
        places: number and name of the last regular member of each path.
        links: symbolic and hard links.
    """

    def __init__(self) -> None:
        self.places: dict[str, tuple[int, str]] = {}
        self.links = TarLinks()

    def add(self, number: int, member: tarfile.TarInfo) -> None:
        """Record the next member, which replaces earlier ones of its path."""
        self.links.add(member)
        self.places.pop(unpack_path(member), None)
        if member.isreg():
            self.places[unpack_path(member)] = number, member.name


def _read_at(path: str, offset: int, size: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(offset)
        content = file.read(size)
    if len(content) < size:
        raise OSError(f"{path} is truncated: it ends inside this member")
    return content
