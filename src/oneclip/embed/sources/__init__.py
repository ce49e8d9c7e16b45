"""Find the sources that command-line arguments name: one module for each kind, with a common interface."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from oneclip.embed.sources.files import ImageFiles, find_in_path, find_in_remote_folder
from oneclip.embed.sources.lines import PathLines, TextLines
from oneclip.embed.sources.tables import TableSource
from oneclip.embed.sources.tars import TarSource
from oneclip.errors import DataError
from oneclip.hub.addresses import expand_pattern, is_address, is_remote_folder
from oneclip.hub.file_types import EXCLUDED, TAR_SUFFIXES, UnsupportedFiles, is_excluded, is_image
from oneclip.hub.tables import CSV_SUFFIXES, PARQUET_SUFFIXES

if TYPE_CHECKING:
    from oneclip.embed.items import ItemSource


def find_sources(
    words: Sequence[str],
    *,
    texts: bool = False,
    column: str | None = None,
    folder: str | None = None,
    id_column: str | None = None,
    exclude: Sequence[str] = (),
) -> list[ItemSource]:
    """Return the sources that arguments name.

    Args:
        words: files, folders, patterns, lists (`@list.txt`, `list.txt`, `@-` for stdin), tables, tar files, or
            addresses of these.
        texts: look for texts instead of images.
        column: of tables; by default the first with a usual name.
        folder: base of relative paths in lists and tables; by default the folder of the list or table.
        id_column: of tables; a column of unique ids that become the names of the items.
        exclude: patterns of files and folders to leave out, in addition to `EXCLUDED`.

    Raises:
        DataError: for a list or table that cannot be used, and for a pattern that matches nothing.
    """
    excluded = (*EXCLUDED, *exclude)

    def meaning(location: str, is_list: bool) -> ItemSource:
        lowered = location.lower()
        if os.path.isdir(location) and not texts:
            return ImageFiles(location, *find_in_path(location, excluded))
        if lowered.endswith(TAR_SUFFIXES):
            return TarSource(location, texts=texts)
        if lowered.endswith((*CSV_SUFFIXES, *PARQUET_SUFFIXES)):
            return TableSource(location, texts=texts, column=column, folder=folder, id_column=id_column)
        if is_list or lowered.endswith(".txt"):
            return TextLines(location) if texts else PathLines(location, folder)
        if texts:
            raise DataError(
                f"{location}: texts are read from .txt (one per line), .csv, .tsv, .parquet and .tar files"
            )
        if not is_address(location):
            return ImageFiles(location, *find_in_path(location, excluded))
        if not is_image(location) and is_remote_folder(location):
            return ImageFiles(location, *find_in_remote_folder(location, excluded))
        return ImageFiles(location, [location])

    found: list[ItemSource] = []
    for word in words:
        is_list = word.startswith("@") and not os.path.exists(word)
        locations = expand_pattern(word[is_list:])
        if locations != [word[is_list:]]:  # a pattern was expanded
            locations = [location for location in locations if not is_excluded(location, exclude)]
        found += [meaning(location, is_list) for location in locations]
    return found


def count_items(sources: Sequence[ItemSource]) -> int | None:
    """Return the number of items of all sources, or None if one of them does not know it."""
    counts = [source.count() for source in sources]
    return None if None in counts else sum(count for count in counts if count is not None)


def not_read(sources: Iterable[object]) -> UnsupportedFiles:
    """Count the images and videos that could not be read, after the sources have been listed."""
    total = UnsupportedFiles()
    for source in sources:
        if isinstance(source, (ImageFiles, TarSource)):
            total.update(source.not_read)
    return total
