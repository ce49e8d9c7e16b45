"""The query of `oneclip search`: tell words, images and folders apart, and check them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import typer

from oneclip.errors import DataError, ImageError

USAGE_EXAMPLE = 'as in: oneclip search "a red car" ~/Photos'


def split_words(words: Sequence[str], folder: str | None) -> tuple[list[str], str | None]:
    """Return the queries, and the folder to search if one is given.

    Raises:
        typer.BadParameter: if there are several folders.
        DataError: for a word that ends like a folder and is none.
    """
    if folder is not None:
        return list(words), folder
    roots = [word for word in words if os.path.isdir(os.path.expanduser(word))]
    if not roots and len(words) > 1:
        roots = [word for word in words if _is_missing_root(word)]
    queries = [word for word in words if word not in roots]
    for word in queries:
        if word.endswith(os.sep):
            raise DataError(f"{word}: no such folder")
    if len(roots) > 1:
        raise typer.BadParameter(
            f"{len(roots)} folders given ({', '.join(roots)}); search one, or put them into one index: "
            f"oneclip index {' '.join(roots)} --index photos.index"
        )
    return queries, roots[0] if roots else None


def _is_missing_root(word: str) -> bool:
    """Return whether a word names an indexed folder that cannot be reached now, as when its disk is not mounted."""
    from oneclip.search.catalogue import FILE
    from oneclip.search.places import index_place

    return (
        bool(word) and not os.path.exists(os.path.expanduser(word)) and (index_place(word) / FILE).is_file()
    )


@dataclass(frozen=True)
class SearchRequest:
    """Arguments of `Index.search`, checked.

    Attributes:
        queries: words, paths of images, and the bytes of an image from stdin.
        like: images likewise.
        exclude: what the results should not show.
    """

    queries: list[object]
    like: list[object]
    exclude: list[str]


def check_request(
    texts: Sequence[str], like: Sequence[str], exclude: Sequence[str], min_relevance: float | None
) -> SearchRequest:
    """Check the query before anything is indexed or loaded; read the image that stdin stands for.

    Raises:
        typer.BadParameter: if there is no query, or it has no relevance to cut by.
        TextError, ImageError, ConfigError: for a part that cannot be searched.
    """
    if not texts and not like:
        raise typer.BadParameter(f"no QUERY given; describe an image, {USAGE_EXAMPLE}")
    from oneclip.search.query import parse_queries

    for word in texts:
        _check_path(word)
    given = [*texts, *like]
    if given.count("-") > 1:
        raise typer.BadParameter("`-`, the image from stdin, is given twice")
    content = _read_stdin() if "-" in given else b""
    request = SearchRequest(
        [content if text == "-" else text for text in texts],
        [content if image == "-" else os.path.expanduser(image) for image in like],
        list(exclude),
    )
    parsed = parse_queries(request.queries, request.like, request.exclude)
    if min_relevance is not None and not any(query.is_text and query.weight > 0 for query in parsed):
        raise typer.BadParameter("--min-relevance needs words; images alone have no relevance")
    return request


def _check_path(word: str) -> None:
    """Refuse a mistyped path, which would be searched as a text."""
    from oneclip.hub.file_types import is_image

    path = word if os.path.exists(word) else re.sub(r"^[\d.]+:", "", word)  # without the weight
    if path == "-" and path != word:
        raise typer.BadParameter(f"{word}: the image from stdin has no weight; weigh the other parts instead")
    path = os.path.expanduser(path)
    if not path.startswith((os.sep, "./", "../", "~/")) and (" " in path or not is_image(path)):
        return
    if not os.path.exists(path):
        raise ImageError(f"{path}: no such file or folder")
    if not is_image(path):
        raise ImageError(f"{path}: not an image; to use a file with another suffix: --like {path}")


def _read_stdin() -> bytes:
    content = b"" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.buffer.read()
    if not content:
        raise ImageError("there is no image on stdin: cat cat.jpg | oneclip search -")
    return content
