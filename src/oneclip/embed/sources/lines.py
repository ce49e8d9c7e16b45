"""Text files with one item per line: image paths, or texts."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from oneclip.embed.items import Found, Item
from oneclip.embed.sources.files import file_item
from oneclip.errors import DataError
from oneclip.hub.addresses import is_address, open_binary, with_slashes

STDIN = "-"


class PathLines:
    """File with the path or address of an image in each line.

    Args:
        location: of the list, or `-` for stdin; UTF-8, empty lines are skipped.
        folder: base of relative paths; by default the folder of the list.
    """

    is_bulky = False

    def __init__(self, location: str, folder: str | None = None) -> None:
        self.name, self._folder = location, folder
        self._paths = [line for _, line in _lines(location)]
        if not self._paths:
            raise DataError(f"{_label(location)} is empty; expected the path of an image in each line")

    def count(self) -> int | None:
        """Return the number of paths."""
        return len(self._paths)

    def __iter__(self) -> Iterator[Found]:
        for path in self._paths:
            yield file_item(self._resolve(path))

    def lacks_most(self, limit: int = 20) -> bool:
        """Return True if most of the first `limit` paths do not exist; addresses are not checked."""
        first = [self._resolve(path) for path in self._paths[:limit]]
        missing = [path for path in first if not is_address(path) and not os.path.exists(path)]
        return len(missing) > len(first) / 2

    def _resolve(self, path: str) -> str:
        return resolve_listed_path(self.name, path, self._folder)


class TextLines:
    """File with a text in each line: line 7 of `captions.txt` becomes item `captions.txt:7`.

    Args:
        location: of the file, or `-` for stdin (`stdin:7`); UTF-8, empty lines are skipped but counted.
    """

    is_bulky = False

    def __init__(self, location: str) -> None:
        self.name = "stdin" if location == STDIN else location
        self._lines = _lines(location)
        if not self._lines:
            raise DataError(f"{_label(location)} is empty; expected a text in each line")

    def count(self) -> int | None:
        """Return the number of texts."""
        return len(self._lines)

    def __iter__(self) -> Iterator[Found]:
        for number, line in self._lines:
            yield Item(f"{self.name}:{number}", line.encode)


def resolve_listed_path(table: str, path: str, folder: str | None) -> str:
    """Make a path from a list or table relative to the current folder; addresses are unchanged."""
    if is_address(path) or os.path.isabs(path):
        return with_slashes(path)
    if folder is None and is_address(table):
        return f"{table.rpartition('/')[0]}/{path}"
    return with_slashes(os.path.join(os.path.dirname(table) if folder is None else folder, path))


def _label(location: str) -> str:
    return "standard input" if location == STDIN else location


def _lines(location: str) -> list[tuple[int, str]]:
    """Return stripped non-empty lines with their numbers, from 1."""
    try:
        if location == STDIN:
            content = sys.stdin.buffer.read()
        else:
            with open_binary(location) as stream:
                content = stream.read()
        text = content.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{location}: no such file; expected a list with one item per line") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{_label(location)} is not text in UTF-8: {error}") from error
    return [(n, line.strip()) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
