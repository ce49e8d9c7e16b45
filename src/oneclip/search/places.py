"""Find the place of a folder's index, and the index that covers a folder, also after the folder was moved."""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import closing
from pathlib import Path

from oneclip.errors import ConfigError, OneCLIPError
from oneclip.search.catalogue import FILE, Catalogue

PLACE_VARIABLE = "ONECLIP_INDEXES"
SAMPLED_FILES = 50  # of a root that is missing, to find out whether it was moved


def index_home() -> Path:
    """Return the folder of all indexes: ONECLIP_INDEXES, or `oneclip/indexes` in the data folder of the user."""
    if folder := os.environ.get(PLACE_VARIABLE):
        return Path(folder).expanduser()
    from platformdirs import user_data_path

    return user_data_path("oneclip", appauthor=False) / "indexes"


def real_root(root: str | os.PathLike[str]) -> str:
    """Return the absolute path of a root without links, so that two ways to name a folder mean one index.

    Raises:
        ConfigError: if it cannot be a path.
    """
    try:
        path = os.fsdecode(root)
        if not path:
            raise ValueError("it is empty; the current folder is '.'")
        return os.path.realpath(os.path.expanduser(path))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{root!r} is not the path of a folder: {error}") from error


def index_place(root: str | os.PathLike[str]) -> Path:
    """Return the folder of the index of a root, whether it exists or not."""
    path = real_root(root)
    digest = hashlib.sha256(os.fsencode(os.path.normcase(path))).hexdigest()[:12]
    name = re.sub(r"[^\w.-]+", "-", os.path.basename(path)).strip("-.").encode("ascii", "ignore").decode()
    return index_home() / (f"{name[:40]}-{digest}" if name else digest)


def index_for_root(root: str | os.PathLike[str]) -> Path:
    """Return the folder of the index of a root. The index of a folder that was moved there goes with it."""
    place, path = index_place(root), real_root(root)
    home = index_home()
    if (place / FILE).is_file() or not os.path.isdir(path) or not home.is_dir():
        return place
    for other in sorted(home.iterdir()):
        if not (other / FILE).is_file():
            continue
        try:
            with closing(Catalogue(other)) as catalogue:
                if len(catalogue.roots()) != 1 or moved_root(catalogue, path) is None:
                    continue
                with catalogue.transaction():
                    catalogue.write("UPDATE roots SET path = ?", [(os.fsencode(path),)])
            os.rename(other, place)
        except (OneCLIPError, OSError):  # damaged, or of a newer version
            continue
        return place
    return place


def moved_root(catalogue: Catalogue, root: str) -> str | None:
    """Return the root of an index that is missing and whose files are now in the folder `root`, or None."""
    for old, number in catalogue.roots().items():
        if os.path.exists(old):
            continue
        sample = catalogue.rows(
            "SELECT path, size FROM files WHERE root = ? LIMIT ?", (number, SAMPLED_FILES)
        )
        found = sum(_has_size(os.path.join(root, os.fsdecode(path)), size) for path, size in sample)
        if sample and 2 * found > len(sample):
            return old
    return None


def _has_size(path: str, size: int | None) -> bool:
    try:
        return size is not None and os.path.getsize(path) == size
    except OSError:
        return False


def covering_index(folder: str | os.PathLike[str]) -> tuple[Path, str] | None:
    """Find the index of a folder, or of the nearest folder above it.

    Returns:
        The folder of the index and its root, or None.
    """
    path = real_root(folder)
    while True:
        place = index_place(path)
        if (place / FILE).is_file():
            return place, path
        parent = os.path.dirname(path)
        if parent == path:
            return None
        path = parent
