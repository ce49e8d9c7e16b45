"""List of what `sort` did, a CSV file in the folder of the sorted images, and the way back.

A row is on disk before its file is copied, moved or linked, so that it can be undone whatever happens.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, cast, get_args

from oneclip.embed.items import Failure
from oneclip.errors import DataError, OneCLIPError
from oneclip.hub.atomic import replace_file
from oneclip.search.sort_files import TEMPORARY, Action, is_unchanged, place_file

LIST = "oneclip-sort.csv"
_HEADER = ("from", "to", "action", "bytes", "mtime_ns", "sha256")
# names need not be valid UTF-8
_TEXT = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}


class SortRow(NamedTuple):
    """File that was sorted, or was about to be.

    Attributes:
        source: absolute path of the original.
        target: absolute path of the copy, the moved file or the link.
        action: what was done.
        size: of the original in bytes.
        mtime_ns: its modification time in nanoseconds.
        sha256: of its content.
    """

    source: str
    target: str
    action: Action
    size: int
    mtime_ns: int
    sha256: str


def read_list(path: Path) -> list[SortRow]:
    """Read a list; a last row that a crash cut off is left out.

    Raises:
        DataError: if it is missing, or not such a list.
    """
    try:
        with path.open(**_TEXT) as file:  # type: ignore[call-overload]
            rows = list(csv.reader(file))
    except (OSError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path} cannot be read: {reason}") from error
    if not rows or tuple(rows[0]) != _HEADER:
        raise DataError(f"{path} is not a list of `oneclip sort`; its first line is {','.join(_HEADER)}")
    found = []
    for number, row in enumerate(rows[1:], 2):
        try:
            source, target, action, size, mtime_ns, sha256 = row
            if action not in get_args(Action) or len(sha256) != 64:
                raise ValueError
            found.append(SortRow(source, target, cast(Action, action), int(size), int(mtime_ns), sha256))
        except ValueError as error:
            if number <= len(rows) - 1:
                raise DataError(f"{path}, row {number} is not a row of `oneclip sort`") from error
    return found


def append_rows(path: Path, rows: Iterable[SortRow]) -> None:
    """Append rows to a list, and flush it to disk. A new list gets its header."""
    if path.exists():
        with path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            is_whole = file.read(1) == b"\n"
        if not is_whole:
            _rewrite(path, read_list(path))
    else:
        _rewrite(path, [])
    with path.open("a", **_TEXT) as file:  # type: ignore[call-overload]
        csv.writer(file, lineterminator="\n").writerows(rows)
        file.flush()
        os.fsync(file.fileno())


def _rewrite(path: Path, rows: list[SortRow]) -> None:
    with replace_file(path) as temporary, temporary.open("w", **_TEXT) as file:  # type: ignore[call-overload]
        csv.writer(file, lineterminator="\n").writerows([_HEADER, *rows])


@dataclass
class UndoResult:
    """Outcome of `undo_sort`.

    Attributes:
        undone: number of files that are as before.
        kept: files that were left as they are, with the reasons.
    """

    undone: int = 0
    kept: list[Failure] = field(default_factory=list)


def undo_sort(path: Path) -> UndoResult:
    """Take back what a list names: delete copies and links, move files back.

    Only files that are unchanged since are touched, and a copy is deleted only while its original exists. If
    everything is undone, the list and the folders that are empty then are removed.

    Raises:
        DataError: if it is not a list of `sort`.
    """
    rows, result = read_list(path), UndoResult()
    for row in reversed(rows):
        if not os.path.lexists(row.target):  # not done yet, or undone before
            continue
        try:
            reason = _undo(row)
        except (OSError, OneCLIPError) as error:
            reason = str(getattr(error, "strerror", None) or error)
        if reason:
            result.kept.append(Failure(row.target, f"{row.target} was left as it is: {reason}"))
        else:
            result.undone += 1
    if not result.kept:
        path.unlink()
    folders = {os.path.dirname(row.target) for row in rows} | {str(path.parent)}
    for folder in sorted(folders, key=len, reverse=True):
        with suppress(OSError):  # of a sort that was killed
            os.unlink(os.path.join(folder, TEMPORARY))
        with suppress(OSError):  # not empty
            os.rmdir(folder)
    return result


def _undo(row: SortRow) -> str:
    """Undo one row; return why it must not be, or ""."""
    is_link = os.path.islink(row.target)
    if row.action == "link":
        if not is_link or os.readlink(row.target) != row.source:
            return "it is no longer the link that was made"
        os.unlink(row.target)
        return ""
    if is_link or not is_unchanged(row.target, *row[3:]):
        return "it has changed since"
    if row.action == "copy":
        is_other = os.path.realpath(row.source) != os.path.realpath(row.target)
        if not is_other or not is_unchanged(row.source, *row[3:]):
            return f"its original {row.source} is missing or has changed, so this is the only copy"
        os.unlink(row.target)
        return ""
    if os.path.lexists(row.source):
        return f"there is another {row.source}"
    os.makedirs(os.path.dirname(row.source), exist_ok=True)
    place_file(row.target, row.source, "move")
    return ""
