"""Find what changed in a folder since it was indexed, from file names, sizes and times alone. Reads no file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec

from oneclip.embed.items import Failure
from oneclip.embed.sources.files import no_images_message
from oneclip.errors import ImageError
from oneclip.hub.addresses import regular_file_size
from oneclip.hub.file_types import EXCLUDED, UnsupportedFiles, is_excluded, split_images, walk_files
from oneclip.search.catalogue import FileRow


@dataclass
class FolderChanges:
    """Differences between a folder and the catalogue; paths are relative to the root.

    Attributes:
        candidates: files that are new, or changed in size or time.
        missing: files of the catalogue that no longer exist, or are excluded now.
        unchanged: number of files with an embedding that need not be read.
        failed: number of files that failed before and have not changed.
        unlisted: folders that could not be listed, with the reason; their files are not `missing`.
        not_read: images and videos in formats that cannot be read here.
    """

    candidates: list[str] = field(default_factory=list)
    missing: list[bytes] = field(default_factory=list)
    unchanged: int = 0
    failed: int = 0
    unlisted: list[Failure] = field(default_factory=list)
    not_read: UnsupportedFiles = field(default_factory=UnsupportedFiles)


def find_changes(
    root: str,
    known: dict[bytes, FileRow],
    *,
    under: str = "",
    exclude: Sequence[str] = (),
    prune: bool = False,
) -> FolderChanges:
    """Compare a folder with the catalogue.

    Args:
        root: absolute path.
        known: files of the catalogue in the root, or in `under`.
        under: folder of the root to look at, relative to it; "" for all of it.
        exclude: patterns of files and folders to leave out, in addition to `EXCLUDED`.
        prune: whether the files of a folder that is missing, empty or unreadable count as missing.
    """
    changes = FolderChanges()
    folder = os.path.join(root, under) if under else root
    start = len(root.rstrip(os.sep)) + 1
    excluded = (*EXCLUDED, *exclude)

    def unreadable(error: OSError) -> None:
        path = str(error.filename)
        changes.unlisted.append(Failure(path, f"{path} cannot be read: {error.strerror}"))

    images, changes.not_read = split_images(walk_files(folder, unreadable, excluded))
    if not images and not changes.unlisted:
        changes.unlisted.append(Failure(folder, no_images_message(folder, changes.not_read)))
    decoders, unseen = installed_decoders(), dict(known)
    for path in images:
        relative = path[start:]
        row = unseen.pop(os.fsencode(relative), None)
        if row is not None and row.size is None and row.decoders == decoders and not _can_be_read(path):
            changes.failed += 1  # before a model is loaded in vain, for example for a link to a missing file
        elif row is None or not _is_unchanged(path, row):
            changes.candidates.append(relative)
        elif row.content is not None:
            changes.unchanged += 1
        elif row.decoders == decoders:
            changes.failed += 1
        else:
            changes.candidates.append(relative)
    hidden = [] if prune else [os.fsencode(failure.name[start:]) for failure in changes.unlisted]
    for path_bytes in unseen:
        is_hidden = any(_is_in(path_bytes, prefix) for prefix in hidden)
        if not is_hidden or (exclude and is_excluded(os.fsdecode(path_bytes), excluded)):
            changes.missing.append(path_bytes)
    return changes


def installed_decoders() -> str:
    """Return the optional decoders of this environment: a file that failed is tried again when one was added."""
    return " ".join(name for name in ("pillow_heif", "pillow_jxl", "rawpy") if find_spec(name) is not None)


def _is_unchanged(path: str, row: FileRow) -> bool:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return False  # it is reported when the file is read
    return row.size == status.st_size and row.mtime_ns == status.st_mtime_ns


def _can_be_read(path: str) -> bool:
    try:
        regular_file_size(path)
    except (ImageError, OSError):
        return False
    return os.access(path, os.R_OK)


def _is_in(path: bytes, folder: bytes) -> bool:
    return not folder or path == folder or path.startswith(folder + os.fsencode(os.sep))
