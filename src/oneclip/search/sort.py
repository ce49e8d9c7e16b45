"""Sort images into folders by label, with the embeddings of their index."""

from __future__ import annotations

import errno
import glob
import json
import os
import re
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from oneclip.embed.items import Failure
from oneclip.errors import OneCLIPError, OutputError
from oneclip.hub.atomic import try_file_lock
from oneclip.search.duplicates import Collection, read_status, require_one_model
from oneclip.search.results import Entry
from oneclip.search.sort_files import Action, place_file
from oneclip.search.sort_list import LIST, SortRow, append_rows, read_list

if TYPE_CHECKING:
    from oneclip.encoding import BaseEncoder, Features
    from oneclip.search.index import Index

ROWS_AT_ONCE = 8_192  # embeddings in memory
FILES_AT_ONCE = 64  # rows of the list that are written to disk together
MAX_NAME_BYTES = 255
_LOCK = ".oneclip-sort.lock"
_UNSAFE = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # names of devices on Windows
_STOPPING = {errno.ENOSPC, errno.EROFS, getattr(errno, "EDQUOT", errno.ENOSPC)}


@dataclass(frozen=True)
class Placement:
    """Image and the place that it gets.

    Attributes:
        entry: the file.
        target: absolute path.
        label: the most probable one.
        probability: of the label.
    """

    entry: Entry
    target: str
    label: str
    probability: float


@dataclass
class SortPlan:
    """Plan of a sort.

    Attributes:
        into: absolute path of the folder that receives the folders of labels.
        placements: images to sort.
        unsure: number of images below the least probability; they stay where they are.
        done: number of images that an earlier run has sorted.
    """

    into: str
    placements: list[Placement] = field(default_factory=list)
    unsure: int = 0
    done: int = 0


@dataclass
class SortResult:
    """Outcome of a sort.

    Attributes:
        done: number of images that were sorted.
        failures: images that could not be, with the reasons.
        interrupted: whether Ctrl-C ended it.
    """

    done: int = 0
    failures: list[Failure] = field(default_factory=list)
    interrupted: bool = False


def plan_sort(
    collections: Sequence[Collection],
    labels: Sequence[str],
    into: str | os.PathLike[str],
    *,
    template: str | None = None,
    min_probability: float = 0.0,
) -> SortPlan:
    """Find the most probable label of each image, and a free name in its folder. Changes nothing.

    Args:
        collections: indexes made by one model, with the files of each to sort; those in `into` are left out.
        labels: as of `Encoder.classify`; the folders have their names.
        into: folder that receives the folders of labels.
        template: sentence with {} where the label goes.
        min_probability: images with a less probable label stay where they are.

    Raises:
        TextError: for labels that the model cannot tell apart.
        ConfigError: if different models made the indexes.
        DataError: if the list of an earlier run cannot be read.
    """
    require_one_model([index for index, _ in collections])
    plan = SortPlan(os.path.realpath(os.path.expanduser(into)))
    encoder = collections[0][0].encoder
    text_features = encoder.encode_labels(labels, template)
    names = _FreeNames(plan.into)
    folders = folder_names(labels)
    for entry, best, probability in _classify(collections, encoder, text_features, plan.into):
        if probability < min_probability:
            plan.unsure += 1
        elif (target := names.choose(entry, folders[labels[best]])) is None:
            plan.done += 1
        else:
            plan.placements.append(Placement(entry, target, labels[best], probability))
    return plan


def carry_out(
    plan: SortPlan, action: Action = "copy", report: Callable[[int], None] = lambda count: None
) -> SortResult:
    """Copy, move or link the images of a plan. Nothing is overwritten; `undo_sort` takes it back.

    Args:
        plan: of `plan_sort`.
        action: "copy", "move" or "link".
        report: called with the number of images that were just sorted.

    Returns:
        What was done, also after Ctrl-C; the same sort continues.

    Raises:
        OutputError: if the folder cannot be written, or is full; what is done is kept and in the list.
    """
    result = SortResult()
    into = Path(plan.into)
    try:
        into.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{into} cannot be made: {error.strerror}") from error
    lock = try_file_lock(into / _LOCK)
    if lock is None:
        raise OutputError(f"another process is sorting into {into}")
    try:
        for start in range(0, len(plan.placements), FILES_AT_ONCE):
            _place_some(plan, plan.placements[start : start + FILES_AT_ONCE], action, report, result)
    except KeyboardInterrupt:
        result.interrupted = True
    finally:
        lock.release()
        with suppress(OSError):
            (into / _LOCK).unlink()
    return result


def folder_names(labels: Sequence[str]) -> dict[str, str]:
    """Return a folder name for each label that every system allows; no two differ in case alone."""
    found: dict[str, str] = {}
    used: set[str] = set()
    for label in labels:
        name = _UNSAFE.sub("_", unicodedata.normalize("NFC", label)).strip(". ")
        while len(name.encode("utf-8", "surrogateescape")) > 100:
            name = name[:-1].rstrip(". ")
        name = f"{name}_" if not name or _RESERVED.fullmatch(name) else name
        free, number = name, 2
        while _folded(free) in used:
            free, number = f"{name} ({number})", number + 1
        used.add(_folded(free))
        found[label] = free
    return found


def exclude_folder(index: Index, folder: str) -> list[str]:
    """Leave a folder out of an index from now on, so that copies in it are not found twice.

    Returns:
        The roots of the index that it is in, if it was not left out before.
    """
    changed = []
    for root, number in index.catalogue.roots().items():
        if not _is_in(folder, root):
            continue
        ((text,),) = index.catalogue.rows("SELECT exclude FROM roots WHERE id = ?", (number,))
        pattern = glob.escape(os.path.relpath(folder, root).replace(os.sep, "/")) + "/*"
        if pattern not in json.loads(text):
            patterns = json.dumps([*json.loads(text), pattern])
            with index.writing(), index.catalogue.transaction():
                index.catalogue.write("UPDATE roots SET exclude = ? WHERE id = ?", [(patterns, number)])
            changed.append(root)
    return changed


def _classify(
    collections: Sequence[Collection], encoder: BaseEncoder, text_features: Features, into: str
) -> list[tuple[Entry, int, float]]:
    """Return each file outside `into` with the number of its label and the probability, in the order given."""
    found, seen = [], set()
    for index, entries in collections:
        snapshot = index.snapshot()
        rows = snapshot.rows_of(np.unique([entry.content for entry in entries]))
        best: dict[int, tuple[int, float]] = {}
        for start in range(0, len(rows), ROWS_AT_ONCE):
            some = rows[start : start + ROWS_AT_ONCE]
            shares = encoder.probabilities(snapshot.scan.vectors(some), text_features)
            winners = shares.argmax(1)
            values = shares[np.arange(len(some)), winners]
            contents = snapshot.contents[some].tolist()
            best.update(zip(contents, zip(winners.tolist(), values.tolist(), strict=True), strict=True))
        for entry in entries:
            if entry.content in best and entry.path not in seen and not _is_in(entry.path, into):
                seen.add(entry.path)
                found.append((entry, *best[entry.content]))
    return found


class _FreeNames:
    """Names in the folders of labels that are not taken, on systems that ignore case too."""

    def __init__(self, into: str) -> None:
        self._into = into
        self._taken: dict[str, set[str]] = {}
        self._listed: dict[tuple[str, str, str], str] = {}
        if os.path.exists(os.path.join(into, LIST)):
            for row in read_list(Path(into, LIST)):
                self._listed[row.source, row.sha256, os.path.dirname(row.target)] = row.target

    def choose(self, entry: Entry, folder: str) -> str | None:
        """Return the path for a file; None if an earlier run has put it there."""
        folder = os.path.join(self._into, folder)
        if folder not in self._taken:
            names = os.listdir(folder) if os.path.isdir(folder) else []
            self._taken[folder] = {_folded(name) for name in names}
        taken = self._taken[folder]
        listed = self._listed.get((entry.path, entry.sha256, folder))
        if listed is not None:  # an earlier run was interrupted before or after it did this
            if os.path.lexists(listed):
                return None
            if _folded(os.path.basename(listed)) not in taken:
                taken.add(_folded(os.path.basename(listed)))
                return listed
        name, number = os.path.basename(entry.path), 1
        while _folded(free := _numbered(name, number)) in taken:
            number += 1
        taken.add(_folded(free))
        return os.path.join(folder, free)


def _numbered(name: str, number: int) -> str:
    """Return "cat (2).jpg" for the second "cat.jpg", cut to what file systems allow."""
    stem, suffix = os.path.splitext(name)
    suffix = suffix if number == 1 else f" ({number}){suffix}"
    while len(os.fsencode(stem + suffix)) > MAX_NAME_BYTES:
        stem = stem[:-1]
    return stem + suffix


def _place_some(
    plan: SortPlan,
    placements: Sequence[Placement],
    action: Action,
    report: Callable[[int], None],
    result: SortResult,
) -> None:
    """Write rows to the list, then do what they say."""
    ready: list[SortRow] = []
    for one in placements:
        found = read_status(one.entry)
        if found is None:
            reason = (
                "has changed since it was indexed" if os.path.exists(one.entry.path) else "no longer exists"
            )
            result.failures.append(Failure(one.entry.path, f"{one.entry.path} {reason}"))
        else:
            _, status = found
            source, sha256 = one.entry.path, one.entry.sha256
            ready.append(SortRow(source, one.target, action, status.st_size, status.st_mtime_ns, sha256))
    path = Path(plan.into, LIST)
    try:
        append_rows(path, ready)
    except OSError as error:
        raise OutputError(
            f"{path} could not be written: {error.strerror or error}. {_way_on(plan, result)}"
        ) from error
    for row in ready:
        try:
            os.makedirs(os.path.dirname(row.target), exist_ok=True)
            place_file(row.source, row.target, action)
        except (OSError, OneCLIPError) as error:
            if isinstance(error, OSError) and error.errno in _STOPPING:
                raise OutputError(
                    f"{row.target} could not be written: {error.strerror}. {_way_on(plan, result)}"
                ) from error
            reason = f"{row.source} could not be sorted: {getattr(error, 'strerror', None) or error}"
            result.failures.append(Failure(row.source, reason))
        else:
            result.done += 1
            report(1)


def _way_on(plan: SortPlan, result: SortResult) -> str:
    return (
        f"{result.done} of {len(plan.placements)} images are sorted, nothing is lost; free some space, and run "
        f"the same command to continue, or undo it: oneclip sort --undo {os.path.join(plan.into, LIST)}"
    )


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
