"""Paths on a command line to the pictures they mean; folders are walked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from oneclip.cli.exits import say
from oneclip.errors import ImageError

# Names that pictures in a folder have. A file named on the command line may have any.
SUFFIXES = frozenset(
    (
        *(
            ".jpg",
            ".jpeg",
            ".jpe",
            ".jfif",
            ".png",
            ".apng",
            ".webp",
            ".gif",
            ".bmp",
            ".dib",
            ".tif",
            ".tiff",
        ),
        *(".avif", ".jp2", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico"),
    )
)


class Unusable(NamedTuple):
    """A path that gives no picture, and why."""

    path: str
    reason: str


def find_pictures(paths: Sequence[str], *, skip: bool) -> tuple[list[str], list[Unusable]]:
    """Find the pictures that paths mean, each once: files in the order given, folders sorted.

    In a folder, and the folders in it, files with a picture's suffix count; what is hidden does not.
    Symbolic links to folders are not followed below the one that was named.

    Args:
        paths: files and folders.
        skip: collect what is missing or empty instead of raising.

    Raises:
        ImageError: unless `skip`, at the first path that leads to no picture; with it, if none does.
    """
    found: dict[str, str] = {}
    unusable: list[Unusable] = []
    for path in paths:
        pictures, problems = _expand(path)
        if problems and not skip:
            raise ImageError(f"{problems[0].reason}; --skip leaves such paths out")
        unusable += problems
        for picture in pictures:
            found.setdefault(os.path.normpath(picture), picture)
    if not found:
        for problem in unusable:
            say(f"skipped {problem.reason}")
        raise ImageError("no picture is left")
    return list(found.values()), unusable


def tell_skipped(skipped: Sequence[Unusable], limit: int = 20) -> None:
    """Name on stderr what was left out, and count what is too much to name."""
    for path, reason in skipped[:limit]:
        say(f"skipped {reason if path in reason else f'{path}: {reason}'}")
    if len(skipped) > limit:
        say(f"skipped {len(skipped) - limit} more")


def _expand(path: str) -> tuple[list[str], list[Unusable]]:
    if not os.path.isdir(path):
        missing = not os.path.exists(path)
        return (
            ([], [Unusable(path, f"{path or repr(path)}: no such file or folder")])
            if missing
            else ([path], [])
        )
    problems: list[Unusable] = []

    def unreadable(error: OSError) -> None:
        problems.append(Unusable(str(error.filename), f"{error.filename} cannot be read: {error.strerror}"))

    pictures = [os.path.join(folder, name) for folder, names in _walk(path, unreadable) for name in names]
    if not pictures and not problems:
        problems.append(Unusable(path, f"{path}: a folder without pictures (.jpg, .png, .webp, …)"))
    return pictures, problems


def _walk(path: str, onerror: Callable[[OSError], None]) -> Iterator[tuple[str, list[str]]]:
    """Folders with the names of the pictures in them, sorted."""
    for folder, subfolders, names in os.walk(path, onerror=onerror):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        pictures = sorted(
            n for n in names if not n.startswith(".") and os.path.splitext(n)[1].lower() in SUFFIXES
        )
        yield folder, pictures
