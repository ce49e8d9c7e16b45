"""Open the indexes of several folders, up to date, for commands that look at all their images."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oneclip.errors import DataError

if TYPE_CHECKING:
    from oneclip.search import Entry, Index

NoUpdateOption = Annotated[
    bool, typer.Option("--no-update", help="Use the index as it is, without looking for new images.")
]


@dataclass
class OpenIndex:
    """Index with the folders to look at.

    Attributes:
        index: open and up to date.
        folders: the folders by the root that each is in, or is.
    """

    index: Index
    folders: dict[str, list[str]] = field(default_factory=dict)

    def entries(self) -> list[Entry]:
        """Return the image files in the folders, each once."""
        folders = [folder for inside in self.folders.values() for folder in inside]
        return list(
            {entry.path: entry for one in folders for entry in self.index.entries(under=one)}.values()
        )


@contextmanager
def open_roots(
    roots: Sequence[str],
    index: str | None,
    *,
    no_update: bool,
    batch_size: int,
    settings: dict[str, Any],
) -> Iterator[list[OpenIndex]]:
    """Open the indexes of folders, each its own or that of a folder above it, or one index for all.

    Args:
        roots: folders of images.
        index: folder of the one index, or None.
        no_update: use the indexes as they are.
        batch_size: images in a batch.
        settings: `model`, `device` and `precision` of `Index`.

    Raises:
        DataError: if a folder does not exist, has no indexed images, or has no index and may not get one.
    """
    from oneclip.search import Index

    opened: dict[Path, OpenIndex] = {}
    with ExitStack() as stack:
        for root in roots:
            path, folder, covering = _place(root, index)
            if path not in opened:
                _require_index(path, root, no_update)
                opened[path] = OpenIndex(stack.enter_context(Index(path, create=not no_update, **settings)))
            one = opened[path]
            known = one.index.catalogue.roots()
            above = next((other for other in (covering, *known) if other and _is_in(folder, other)), folder)
            if not no_update:
                _update(one.index, above, folder, batch_size)
            one.folders.setdefault(above, []).append(folder)
            if not one.index.entries(under=folder):
                raise DataError(f"{root} has no images that can be read")
        yield list(opened.values())


def _place(root: str, index: str | None) -> tuple[Path, str, str | None]:
    """Return the folder of the index for a root, the real path of the root, and the indexed folder above it."""
    from oneclip.search.places import covering_index, index_for_root, real_root

    folder = real_root(root)
    if not os.path.isdir(folder):  # also if it is indexed: its disk may not be mounted
        raise DataError(f"{root}: no such folder")
    if index is not None:
        return Path(index).expanduser(), folder, None
    found = covering_index(folder)
    return (found[0], folder, found[1]) if found is not None else (index_for_root(folder), folder, None)


def _require_index(path: Path, root: str, no_update: bool) -> None:
    from oneclip.search.catalogue import FILE

    if no_update and not (path / FILE).is_file():
        raise DataError(f"there is no index of {root}; leave out --no-update to make one")


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _update(index: Index, root: str, folder: str, batch_size: int) -> None:
    from oneclip.cli.index_updates import report_update, update_with_progress

    under = "" if folder == root else os.path.relpath(folder, root)
    report_update(update_with_progress(index, root, under=under, batch_size=batch_size), index)
