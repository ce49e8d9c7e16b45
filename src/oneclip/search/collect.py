"""Copy the images of a search into a folder, or link to them. Nothing is ever overwritten."""

from __future__ import annotations

import filecmp
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from oneclip.embed.items import Failure
from oneclip.hub.atomic import write_errors
from oneclip.search.sort_files import place_file

MAX_NAME_BYTES = 200  # most file systems allow 255


@dataclass
class Collected:
    """Outcome of `collect_files`.

    Attributes:
        made: number of new copies or links.
        existing: number of copies or links that were there already.
        failures: files that could not be read.
    """

    made: int = 0
    existing: int = 0
    failures: list[Failure] = field(default_factory=list)


def collect_files(paths: Sequence[str], folder: str | os.PathLike[str], *, link: bool = False) -> Collected:
    """Copy files into a folder with their rank before their name, such as `07-cat.jpg`.

    Where another file has that name, the copy is called `07-cat-2.jpg`.

    Args:
        paths: of the files, best first.
        folder: created if it does not exist.
        link: make symbolic links to the files instead of copies.

    Raises:
        OutputError: if the folder cannot be written; what is done is kept.
    """
    result = Collected()
    digits = max(2, len(str(len(paths))))
    with write_errors(folder):
        os.makedirs(folder, exist_ok=True)
        for rank, path in enumerate(paths, 1):
            if not os.access(path, os.R_OK):
                result.failures.append(Failure(path, f"{path} does not exist any more, or cannot be read"))
                continue
            for name in _names(f"{rank:0{digits}d}-", os.path.basename(path)):
                target = os.path.join(folder, name)
                if os.path.lexists(target):
                    if _is_same(path, target, link):
                        result.existing += 1
                        break
                    continue
                try:
                    place_file(path, target, "link" if link else "copy")
                except FileExistsError:  # another process was faster
                    continue
                result.made += 1
                break
    return result


def _names(prefix: str, name: str) -> Iterator[str]:
    """Yield the names to try."""
    stem, suffix = os.path.splitext(name)
    stem = os.fsdecode(os.fsencode(stem)[:MAX_NAME_BYTES])
    yield f"{prefix}{stem}{suffix}"
    number = 2
    while True:
        yield f"{prefix}{stem}-{number}{suffix}"
        number += 1


def _is_same(path: str, target: str, link: bool) -> bool:
    if link:
        return os.path.islink(target) and os.readlink(target) == path
    return os.path.isfile(target) and not os.path.islink(target) and filecmp.cmp(path, target, shallow=False)
