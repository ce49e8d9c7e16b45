"""Where the index of a folder is stored, and which index covers a folder."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from oneclip.errors import ConfigError
from oneclip.search.catalogue import FILE

PLACE_VARIABLE = "ONECLIP_INDEXES"


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
