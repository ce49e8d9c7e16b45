"""Results of a search on stdout: a table with or without thumbnails, or paths."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from oneclip.hub.addresses import is_address

if TYPE_CHECKING:
    from oneclip.search import Hit, SearchResults

THUMBNAIL_BAR_CELLS = 12


def print_paths(paths: Iterable[str], end: bytes) -> None:
    """Print paths, as the file system spells them, each followed by `end`."""
    sys.stdout.flush()
    content = b"".join(os.fsencode(path) + end for path in paths)
    if hasattr(sys.stdout, "buffer"):
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    else:  # a replacement for text, which a test or a closed stream is
        sys.stdout.write(content.decode("utf-8", "surrogateescape"))


def print_hits(results: SearchResults, *, thumbnails: bool) -> None:
    """Print the results for people.

    Args:
        results: of the search.
        thumbnails: show them if the terminal can.
    """
    from oneclip.cli.thumbnails import print_with_thumbnails, terminal_protocol

    protocol = terminal_protocol() if thumbnails else None
    if protocol is not None:
        print_with_thumbnails(((hit.path, _lines(hit)) for hit in results.hits), protocol)
        return
    from oneclip.cli.table_output import Column, draw_bar, format_percent, print_table
    from oneclip.search.contact_sheet import format_taken_at

    has_relevance = any(hit.relevance is not None for hit in results.hits)
    has_date = any(hit.taken_at for hit in results.hits)
    columns = [Column("score", right=True)]
    columns += [Column("relevance", right=True), Column("", "green", optional=True)] if has_relevance else []
    columns += [Column("taken", optional=True)] if has_date else []
    columns += [Column("image", "cyan")]
    rows = []
    for hit in results.hits:
        row = [f"{hit.score:.3f}"]
        row += [format_percent(hit.relevance or 0.0), draw_bar(hit.relevance or 0.0)] if has_relevance else []
        row += [format_taken_at(hit.taken_at)] if has_date else []
        rows.append([*row, short_path(hit.path)])
    print_table(columns, rows)


def _lines(hit: Hit) -> list[str]:
    """Return the lines beside a thumbnail."""
    from oneclip.cli.table_output import draw_bar, format_percent
    from oneclip.search.contact_sheet import format_taken_at

    score = f"score {hit.score:.3f}"
    if hit.relevance is not None:
        score = f"{draw_bar(hit.relevance, THUMBNAIL_BAR_CELLS)} {format_percent(hit.relevance)}, {score}".lstrip()
    facts = [format_taken_at(hit.taken_at), hit.camera or "", f"{hit.width} × {hit.height}"]
    return [short_path(hit.path), score, " · ".join(filter(None, facts))]


def short_path(path: str) -> str:
    """Return the path relative to the current folder where that is shorter."""
    try:
        relative = path if is_address(path) else os.path.relpath(path)
    except ValueError:  # another drive of Windows
        return path
    return relative if len(relative) < len(path) else path
