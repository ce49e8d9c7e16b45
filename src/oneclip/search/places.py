"""Find the place of a folder's index, and the index that covers a folder, also after the folder was moved."""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from oneclip.errors import ConfigError, DataError, OneCLIPError
from oneclip.hub.file_types import UnsupportedFiles, image_suffixes, is_image, walk_files
from oneclip.search.catalogue import FILE, Catalogue

PLACE_VARIABLE = "ONECLIP_INDEXES"
SAMPLED_FILES = 50  # of a root that is missing, to find out whether it was moved


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
    def is_new(self) -> bool:
        """True if there is no index yet."""
        return not (self.path / FILE).is_file()

    @property
    def relative(self) -> str:
        """The folder to search, relative to the root; "" for all of it."""
        if self.under is None or self.root is None or self.under == self.root:
            return ""
        return os.path.relpath(self.under, self.root)


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


def place_of_folder(folder: str | os.PathLike[str]) -> SearchPlace:
    """Return the part of an index that a folder of images is; without one, the place for a new index of the folder.

    Raises:
        DataError: if the folder is missing in an indexed one.
    """
    path = real_root(folder)
    if (found := covering_index(path)) is None:
        return SearchPlace(index_for_root(path), path)
    require_folder(path, found[1])
    return SearchPlace(found[0], found[1], path if path != found[1] else None)


def find_index(location: str | os.PathLike[str]) -> SearchPlace:
    """Return the index that a path names: the folder of an index, or a folder of images.

    Raises:
        DataError: if it is neither.
    """
    path = Path(location).expanduser()
    if (path / FILE).is_file():
        return SearchPlace(path.absolute())
    place = place_of_folder(location)
    if place.is_new and not os.path.isdir(path):
        what = "is a file; expected an index or a folder of images" if path.exists() else "no such folder"
        raise DataError(f"{os.fspath(location)}: {what}")
    return place


def require_folder(folder: str, root: str) -> None:
    """Refuse a folder that is missing in an indexed one; where that is missing, its disk may not be mounted.

    Raises:
        DataError: if it is missing.
    """
    if os.path.isdir(root) and not os.path.isdir(folder):
        what = "is a file; expected a folder" if os.path.exists(folder) else "no such folder"
        raise DataError(f"{folder}: {what}")


def require_images(folder: str) -> None:
    """Check before torch is imported, and before an index is made, that a folder has an image.

    Raises:
        DataError: if it has none.
    """
    from oneclip.embed.sources.files import no_images_message

    suffixes, not_read = image_suffixes(), UnsupportedFiles()
    for file in walk_files(folder):
        if is_image(file, suffixes):
            return
        not_read.count_file(file)
    raise DataError(no_images_message(folder, not_read))
