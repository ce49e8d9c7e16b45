"""Find the index that `oneclip search` searches, and the folder of it to search."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from oneclip.cli.search_request import USAGE_EXAMPLE
from oneclip.errors import ConfigError, DataError

if TYPE_CHECKING:
    from oneclip.search.places import SearchPlace


def find_place(index: str | None, root: str | None, *, no_update: bool) -> SearchPlace:
    """Find the index to search, or the place for a new one.

    Raises:
        DataError: if there is nothing to search.
        ConfigError: for a folder that should not be indexed without asking.
    """
    from oneclip.search.places import SearchPlace, place_of_folder, real_root, require_images

    folder = real_root(root if root is not None else os.curdir)
    if index is not None:
        path = Path(index).expanduser()
        if (known := _roots_of(path)) is not None:
            return _place_in(path, known, folder if root is not None else None)
        place = SearchPlace(path, folder)
    else:
        place = place_of_folder(folder)
        if not place.is_new:
            return place
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
    return place


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
    from oneclip.search.places import SearchPlace, require_folder

    if folder is None:
        return SearchPlace(path)
    for root in roots:
        if folder == root or folder.startswith(root.rstrip(os.sep) + os.sep):
            require_folder(folder, root)
            return SearchPlace(path, root, folder)
    raise ConfigError(
        f"{folder} is not in the index {path}, which has {', '.join(roots) or 'no folder'}; "
        f"to add it: oneclip index {folder} --index {path}"
    )


def is_dataset(location: str | Path) -> bool:
    """Return whether --index names a Lance dataset."""
    from oneclip.search.handover import is_lance_location

    return is_lance_location(location)
