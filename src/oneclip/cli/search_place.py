"""Find the index that `oneclip search` searches, and the folder of it to search."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from oneclip.cli.search_request import USAGE_EXAMPLE
from oneclip.errors import ConfigError, DataError


@dataclass(frozen=True)
class SearchPlace:
    """Index to search, and the part of it.

    Attributes:
        path: folder of the index.
        root: to update; None for all roots of the index.
        under: folder to search; None for the whole index.
    """

    path: Path
    root: str | None = None
    under: str | None = None

    @property
    def relative(self) -> str:
        """The folder to search, relative to the root; "" for all of it."""
        if self.under is None or self.root is None or self.under == self.root:
            return ""
        return os.path.relpath(self.under, self.root)


def find_place(index: str | None, root: str | None, *, no_update: bool) -> SearchPlace:
    """Find the index to search, or the place for a new one.

    Raises:
        DataError: if there is nothing to search.
        ConfigError: for a folder that should not be indexed without asking.
    """
    from oneclip.cli.index_updates import require_images
    from oneclip.search.catalogue import FILE
    from oneclip.search.places import covering_index, index_for_root, real_root

    folder = real_root(root if root is not None else os.curdir)
    if index is not None:
        path = Path(index).expanduser()
        if (known := _roots_of(path)) is not None:
            return _place_in(path, known, folder if root is not None else None)
    elif (found := covering_index(folder)) is not None:
        _require_folder(folder, found[1])
        return SearchPlace(found[0], found[1], folder if folder != found[1] else None)
    else:
        path = index_for_root(folder)
        if (path / FILE).is_file():
            return SearchPlace(path, folder)
    shown = root or "the current folder"
    if no_update:
        where = f"at {index}" if index is not None else f"of {shown}"
        raise DataError(f"there is no index {where}; leave out --no-update to make one")
    if not os.path.isdir(folder):
        raise DataError(f"{root}: no such folder")
    home = real_root("~")
    if root is None and (folder == home or home.startswith(folder.rstrip(os.sep) + os.sep)):
        raise ConfigError(
            f"this would index everything in {folder}; name a folder of images, {USAGE_EXAMPLE} "
            f"(or, for all of it, --dir {folder})"
        )
    require_images(folder)
    return SearchPlace(path, folder)


def _roots_of(path: Path) -> list[str] | None:
    """Return the roots of an existing index, or None if there is none."""
    from oneclip.search.catalogue import FILE, Catalogue

    if not (path / FILE).is_file():
        return None
    catalogue = Catalogue(path)
    try:
        return list(catalogue.roots())
    finally:
        catalogue.close()


def _place_in(path: Path, roots: Sequence[str], folder: str | None) -> SearchPlace:
    """Return the part of an existing index that a folder is."""
    if folder is None:
        return SearchPlace(path)
    for root in roots:
        if folder == root or folder.startswith(root.rstrip(os.sep) + os.sep):
            _require_folder(folder, root)
            return SearchPlace(path, root, folder)
    raise ConfigError(
        f"{folder} is not in the index {path}, which has {', '.join(roots) or 'no folder'}; "
        f"to add it: oneclip index {folder} --index {path}"
    )


def _require_folder(folder: str, root: str) -> None:
    """Refuse a folder that is missing in an indexed one; where that is missing, its disk may not be mounted."""
    if os.path.isdir(root) and not os.path.isdir(folder):
        what = "is a file; expected a folder" if os.path.exists(folder) else "no such folder"
        raise DataError(f"{folder}: {what}")


def is_dataset(location: str | Path) -> bool:
    """Return whether --index names a Lance dataset."""
    from oneclip.search.handover import is_lance_location

    return is_lance_location(location)
