"""Text files to items, a line each: paths of pictures, or captions."""

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
    """A file with the path or address of a picture in each line.

    Args:
        place: of the list, or `-` for the standard input; UTF-8, empty lines do not count.
        folder: what its paths are relative to; its own folder if not given.
    """

    is_bulky = False

    def __init__(self, place: str, folder: str | None = None) -> None:
        self.name, self._folder = place, folder
        self._paths = [line for _, line in _lines(place)]
        if not self._paths:
            raise DataError(f"{_told(place)} is empty; expected the path of a picture in each line")

    def count(self) -> int | None:
        """How many lines there are."""
        return len(self._paths)

    def __iter__(self) -> Iterator[Found]:
        for path in self._paths:
            yield file_item(beside(self.name, path, self._folder))


class CaptionLines:
    """A file with a caption in each line: item 7 of `captions.txt` is `captions.txt:7`.

    Args:
        place: of the file, or `-` for the standard input (`stdin:7`); UTF-8, empty lines do not count but keep their
            number.
    """

    is_bulky = False

    def __init__(self, place: str) -> None:
        self.name = "stdin" if place == STDIN else place
        self._lines = _lines(place)
        if not self._lines:
            raise DataError(f"{_told(place)} is empty; expected a caption in each line")

    def count(self) -> int | None:
        """How many captions there are."""
        return len(self._lines)

    def __iter__(self) -> Iterator[Found]:
        for number, line in self._lines:
            yield Item(f"{self.name}:{number}", line.encode)


def beside(table: str, path: str, folder: str | None) -> str:
    """A path that a list or table names, made relative to the current folder; addresses stay."""
    if is_address(path) or os.path.isabs(path):
        return with_slashes(path)
    if folder is None and is_address(table):
        return f"{table.rpartition('/')[0]}/{path}"
    return with_slashes(os.path.join(os.path.dirname(table) if folder is None else folder, path))


def _told(place: str) -> str:
    return "the standard input" if place == STDIN else place


def _lines(place: str) -> list[tuple[int, str]]:
    """Lines that are not blank, without the space around them, each with its number from 1."""
    try:
        if place == STDIN:
            content = sys.stdin.buffer.read()
        else:
            with open_binary(place) as stream:
                content = stream.read()
        text = content.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{place}: no such file; expected a list, a line an item") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{_told(place)} is no text in UTF-8: {error}") from error
    return [(n, line.strip()) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
