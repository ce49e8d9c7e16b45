"""Tar files in webdataset format with images or texts.

The members of a sample share their name up to the first dot: `000123.jpg`, `000123.txt`, `000123.json`. A plain local
tar is read by byte positions, so that many threads read at once and unwanted members cost nothing; a compressed or
remote one is read from beginning to end. If several members have one name, the last one counts, as in tar, and links
within the tar are followed: this requires two passes over a local tar.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

from oneclip.embed.items import Failure, Found, Item
from oneclip.errors import ImageError
from oneclip.hub.addresses import is_address, open_binary, regular_file_size
from oneclip.hub.file_types import UnsupportedFiles, image_suffixes, is_image
from oneclip.hub.tars import TAR_ERRORS, TarLinks, detect_compression, iter_members, open_tar, unpack_path


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
        is_indexed, names = self._survey(suffixes)
        seen: set[str] = set()
        with self._opened(is_indexed) as archive:
            for number, member in enumerate(iter_members(archive)):
                if names is not None:
                    wanted = names.get(number, ())
                elif not is_image(member.name, suffixes):
                    if member.isreg() and not self._texts:
                        self.not_read.count_file(member.name)
                    continue
                elif member.issym() or member.islnk():
                    yield self._failure(member.name, "a link; links are followed only in local tar files")
                    continue
                elif unpack_path(member) in seen:
                    yield self._failure(
                        member.name, "in the tar twice; the first was used, because the tar is remote"
                    )
                    continue
                else:
                    seen.add(unpack_path(member))
                    wanted = [member.name] if member.isreg() else []
                if wanted:
                    read = self._reader(archive, member, is_indexed)
                    file = self.name if is_indexed else None  # otherwise listing has read its content
                    for name in wanted:
                        yield Item(f"{self.name}/{name}", read, file, size=member.size)

    def _survey(self, suffixes: frozenset[str]) -> tuple[bool, dict[int, list[str]] | None]:
        """Read the headers once, without the contents.

        Returns:
            Whether contents can be read by position; and the item names for the number of each wanted member, or None
            for a remote tar, which would have to be fetched twice.
        """
        if is_address(self.name):
            return False, None
        regular_file_size(self.name)
        with open(self.name, "rb") as file:
            is_indexed = not detect_compression(file.read(8))
        numbers: dict[str, tuple[int, str]] = {}
        links = TarLinks()
        # damage is reported in the second pass, when contents are read
        with self._opened(is_indexed) as archive, suppress(*TAR_ERRORS):
            for number, member in enumerate(iter_members(archive)):
                links.add(member)
                numbers.pop(unpack_path(member), None)
                if member.isreg():
                    numbers[unpack_path(member)] = number, member.name
        names: dict[int, list[str]] = {}
        for number, name in numbers.values():
            if is_image(name, suffixes):
                names.setdefault(number, []).append(name)
            elif not self._texts:
                self.not_read.count_file(name)
        for path, target in links:
            if is_image(path, suffixes):
                if target in numbers:
                    names.setdefault(numbers[target][0], []).append(path)
                else:
                    self._dangling.append(self._failure(path, f"a link to {target}, which is not in the tar"))
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
        raise OSError(f"{path} is truncated: it ends inside this member")
    return content
