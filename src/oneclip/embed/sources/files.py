"""Files and folders to the pictures in them; folders are walked."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial

from oneclip.embed.items import Failure, Found, Item
from oneclip.hub.addresses import below, is_address, read_bytes
from oneclip.hub.file_types import EXCLUDED, NotRead, files_below, images_of, is_excluded


class Files:
    """Pictures, each a file.

    Args:
        name: of them together, for messages.
        paths: of the pictures, or their addresses.
        failures: paths that lead to none.
        not_read: images and videos beside them that are not read here.
    """

    is_bulky = False

    def __init__(
        self,
        name: str,
        paths: Sequence[str],
        failures: Sequence[Failure] = (),
        not_read: NotRead | None = None,
    ) -> None:
        self.name, self.paths, self.failures = name, paths, failures
        self.not_read = not_read or NotRead()

    def count(self) -> int | None:
        """How many pictures and failures there are."""
        return len(self.paths) + len(self.failures)

    def __iter__(self) -> Iterator[Found]:
        yield from self.failures
        for path in self.paths:
            yield file_item(path)


def file_item(path: str) -> Item:
    """A file, or an address, as an item that is called by its normalised path."""
    read = partial(read_bytes, path)
    return Item(path, read) if is_address(path) else Item(os.path.normpath(path), read, path)


def find_in_path(path: str, exclude: Sequence[str] = EXCLUDED) -> tuple[list[str], list[Failure], NotRead]:
    """The pictures that a path means, sorted, what of it leads to none, and what is not read here.

    In a folder, and the folders in it, files with a picture's suffix count; what is hidden does not.
    Symbolic links to folders are not followed below the one that was named.

    Args:
        path: of a file or a folder.
        exclude: patterns of what to leave out in a folder, see `is_excluded`.
    """
    if not os.path.isdir(path):
        if os.path.exists(path):
            return [path], [], NotRead()
        return [], [Failure(path, f"{path or repr(path)}: no such file or folder")], NotRead()
    failures: list[Failure] = []

    def unreadable(error: OSError) -> None:
        failures.append(Failure(str(error.filename), f"{error.filename} cannot be read: {error.strerror}"))

    pictures, not_read = images_of(files_below(path, unreadable, exclude))
    if not pictures and not failures:
        failures.append(Failure(path, without_images(path, not_read)))
    return pictures, failures, not_read


def find_in_remote_folder(
    address: str, exclude: Sequence[str] = EXCLUDED
) -> tuple[list[str], list[Failure], NotRead]:
    """The same of a folder behind an address."""
    root = len(address.rstrip("/")) + 1
    pictures, not_read = images_of(p for p in below(address) if not is_excluded(p[root:], exclude))
    failures = [] if pictures else [Failure(address, without_images(address, not_read))]
    return pictures, failures, not_read


def without_images(folder: str, not_read: NotRead) -> str:
    """What to say of a folder in which there is no image that can be read here."""
    return f"{folder}: a folder without pictures (.jpg, .png, .webp, …)" + (
        f"; {not_read.sentence}" if not_read else ""
    )
