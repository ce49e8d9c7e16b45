"""Files and folders to the pictures in them; folders are walked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from oneclip.embed.items import Failure, Found, Item
from oneclip.hub.addresses import below, is_address, read_bytes
from oneclip.hub.suffixes import PICTURE_SUFFIXES


class Files:
    """Pictures, each a file.

    Args:
        name: of them together, for messages.
        paths: of the pictures, or their addresses.
        failures: paths that lead to none.
    """

    is_bulky = False

    def __init__(self, name: str, paths: Sequence[str], failures: Sequence[Failure] = ()) -> None:
        self.name, self.paths, self.failures = name, paths, failures

    def count(self) -> int | None:
        """How many pictures and failures there are."""
        return len(self.paths) + len(self.failures)

    def __iter__(self) -> Iterator[Found]:
        yield from self.failures
        for path in self.paths:
            yield file_item(path)


def file_item(path: str) -> Item:
    """A file, or an address, as an item; two ways to write a path are one item."""
    return Item(path, partial(read_bytes, path), path if is_address(path) else os.path.normpath(path))


def find_in_path(path: str) -> tuple[list[str], list[Failure]]:
    """The pictures that a path means, sorted, and what of it leads to none.

    In a folder, and the folders in it, files with a picture's suffix count; what is hidden does not.
    Symbolic links to folders are not followed below the one that was named.
    """
    if not os.path.isdir(path):
        if os.path.exists(path):
            return [path], []
        return [], [Failure(path, f"{path or repr(path)}: no such file or folder")]
    failures: list[Failure] = []

    def unreadable(error: OSError) -> None:
        failures.append(Failure(str(error.filename), f"{error.filename} cannot be read: {error.strerror}"))

    pictures = [os.path.join(folder, name) for folder, names in _walk(path, unreadable) for name in names]
    if not pictures and not failures:
        failures.append(Failure(path, f"{path}: a folder without pictures (.jpg, .png, .webp, …)"))
    return pictures, failures


def find_in_remote_folder(address: str) -> tuple[list[str], list[Failure]]:
    """The same of a folder behind an address."""
    pictures = [place for place in below(address) if os.path.splitext(place)[1].lower() in PICTURE_SUFFIXES]
    if pictures:
        return pictures, []
    return [], [Failure(address, f"{address}: a folder without pictures (.jpg, .png, .webp, …)")]


def _walk(path: str, onerror: Callable[[OSError], None]) -> Iterator[tuple[str, list[str]]]:
    """Folders with the names of the pictures in them, sorted."""
    for folder, subfolders, names in os.walk(path, onerror=onerror):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        pictures = sorted(
            n for n in names if not n.startswith(".") and os.path.splitext(n)[1].lower() in PICTURE_SUFFIXES
        )
        yield folder, pictures
