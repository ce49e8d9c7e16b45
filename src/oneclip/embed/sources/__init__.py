"""Words on a command line to sources: a file of this folder for each kind, all of the same shape."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from oneclip.embed.sources.files import Files, find_in_path, find_in_remote_folder
from oneclip.embed.sources.lines import CaptionLines, PathLines
from oneclip.embed.sources.tables import Table
from oneclip.embed.sources.tars import Shard
from oneclip.errors import DataError
from oneclip.hub.addresses import expand, is_address, is_remote_folder
from oneclip.hub.file_types import EXCLUDED, TAR_SUFFIXES, NotRead, is_excluded, is_image
from oneclip.hub.tables import CSV_SUFFIXES, PARQUET_SUFFIXES

if TYPE_CHECKING:
    from oneclip.embed.items import Source


def find_sources(
    words: Sequence[str],
    *,
    texts: bool = False,
    column: str | None = None,
    folder: str | None = None,
    id_column: str | None = None,
    exclude: Sequence[str] = (),
) -> list[Source]:
    """Say what each word means.

    Args:
        words: files, folders, patterns, lists (`@list.txt`, `list.txt`, `@-` for the standard input), tables, tar
            shards, or addresses of them.
        texts: look for captions instead of pictures.
        column: of tables; by default the first that is called like one.
        folder: what paths in lists and tables are relative to; their own folder if not given.
        id_column: of tables; what their items are called, each differently.
        exclude: patterns of what to leave out of folders and patterns, besides `EXCLUDED`.

    Raises:
        DataError: for a list or table that cannot be used, and for a pattern that fits nothing.
    """
    excluded = (*EXCLUDED, *exclude)

    def meaning(place: str, is_list: bool) -> Source:
        lowered = place.lower()
        if os.path.isdir(place) and not texts:
            return Files(place, *find_in_path(place, excluded))
        if lowered.endswith(TAR_SUFFIXES):
            return Shard(place, texts=texts)
        if lowered.endswith((*CSV_SUFFIXES, *PARQUET_SUFFIXES)):
            return Table(place, texts=texts, column=column, folder=folder, id_column=id_column)
        if is_list or lowered.endswith(".txt"):
            return CaptionLines(place) if texts else PathLines(place, folder)
        if texts:
            raise DataError(
                f"{place}: captions come from .txt (one a line), .csv, .tsv, .parquet and .tar files"
            )
        if not is_address(place):
            return Files(place, *find_in_path(place, excluded))
        if not is_image(place) and is_remote_folder(place):
            return Files(place, *find_in_remote_folder(place, excluded))
        return Files(place, [place])

    found: list[Source] = []
    for word in words:
        is_list = word.startswith("@") and not os.path.exists(word)
        places = expand(word[is_list:])
        if places != [word[is_list:]]:  # of a pattern
            places = [place for place in places if not is_excluded(place, exclude)]
        found += [meaning(place, is_list) for place in places]
    return found


def not_read(sources: Iterable[object]) -> NotRead:
    """Count the images and videos in sources that are not read here, once they were gone through."""
    total = NotRead()
    for source in sources:
        if isinstance(source, (Files, Shard)):
            total.update(source.not_read)
    return total
