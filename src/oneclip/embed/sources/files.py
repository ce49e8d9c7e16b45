"""Files and folders to the pictures in them; folders are walked."""

from __future__ import annotations

import fnmatch
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
    """A file, or an address, as an item that is called by its normalised path."""
    read = partial(read_bytes, path)
    return Item(path, read) if is_address(path) else Item(os.path.normpath(path), read, path)


# Folders of thumbnails and of deleted files, as Synology, QNAP, Windows and macOS make them beside what was stored.
EXCLUDED = ("@eaDir", "@__thumb", "#recycle", "@Recycle", "$RECYCLE.BIN", "__MACOSX")


def find_in_path(path: str, exclude: Sequence[str] = EXCLUDED) -> tuple[list[str], list[Failure]]:
    """The pictures that a path means, sorted, and what of it leads to none.

    In a folder, and the folders in it, files with a picture's suffix count; what is hidden does not.
    Symbolic links to folders are not followed below the one that was named.

    Args:
        path: of a file or a folder.
        exclude: patterns of what to leave out in a folder, see `is_excluded`.
    """
    if not os.path.isdir(path):
        if os.path.exists(path):
            return [path], []
        return [], [Failure(path, f"{path or repr(path)}: no such file or folder")]
    failures: list[Failure] = []

    def unreadable(error: OSError) -> None:
        failures.append(Failure(str(error.filename), f"{error.filename} cannot be read: {error.strerror}"))

    pictures = [
        os.path.join(folder, name) for folder, names in _walk(path, unreadable, exclude) for name in names
    ]
    if not pictures and not failures:
        failures.append(Failure(path, f"{path}: a folder without pictures (.jpg, .png, .webp, …)"))
    return pictures, failures


def find_in_remote_folder(address: str, exclude: Sequence[str] = EXCLUDED) -> tuple[list[str], list[Failure]]:
    """The same of a folder behind an address."""
    root = len(address.rstrip("/")) + 1
    pictures = [
        place
        for place in below(address)
        if os.path.splitext(place)[1].lower() in PICTURE_SUFFIXES and not is_excluded(place[root:], exclude)
    ]
    if pictures:
        return pictures, []
    return [], [Failure(address, f"{address}: a folder without pictures (.jpg, .png, .webp, …)")]


def is_excluded(path: str, exclude: Sequence[str]) -> bool:
    """Whether a pattern fits a path, or a folder that it lies in; one without a slash fits their names alone.

    Args:
        path: relative to the folder that was named.
        exclude: patterns as of a shell; `*` fits slashes, too.
    """
    parts = path.replace(os.sep, "/").split("/")
    places = ["/".join(parts[: i + 1]) for i in range(len(parts))]
    return any(
        fnmatch.fnmatch(candidate, pattern.rstrip("/"))
        for pattern in exclude
        for candidate in (places if "/" in pattern.rstrip("/") else parts)
    )


def _walk(
    path: str, onerror: Callable[[OSError], None], exclude: Sequence[str]
) -> Iterator[tuple[str, list[str]]]:
    """Folders with the names of the pictures in them, sorted."""
    for folder, subfolders, names in os.walk(path, onerror=onerror):
        below = os.path.relpath(folder, path)

        def is_wanted(name: str, below: str = below) -> bool:
            place = name if below == os.curdir else os.path.join(below, name)
            return not name.startswith(".") and not is_excluded(place, exclude)

        subfolders[:] = sorted(filter(is_wanted, subfolders))
        pictures = [name for name in names if os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES]
        yield folder, sorted(filter(is_wanted, pictures))
