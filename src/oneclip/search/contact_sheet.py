"""Contact sheet of a search: one HTML page with a thumbnail of each image, without external files or scripts."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from html import escape
from pathlib import Path
from urllib.parse import quote

from oneclip.hardware import decoding_threads
from oneclip.html import data_address, render_page
from oneclip.hub.atomic import replace_file
from oneclip.search.results import Hit, SearchResults

_STYLE = """
body { max-width: 100rem }
ol { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(11rem, 100%), 1fr)); gap: 1rem;
  list-style: none; margin: 0; padding: 0 }
li { background: var(--card); border-radius: .5rem; overflow: hidden; display: flex; flex-direction: column }
li > a, .missing { display: flex; align-items: center; justify-content: center; height: 13rem; padding: .5rem }
li > a:focus-visible { outline: 3px solid var(--bar); outline-offset: -3px }
img { max-height: 100%; width: auto; height: auto; border-radius: .25rem }
.missing { color: var(--soft); border: 2px dashed var(--soft); border-radius: .5rem; text-align: center }
.caption { padding: .25rem .75rem .75rem; font-size: .85rem }
.caption p { margin: .15rem 0 0; overflow-wrap: anywhere }
@media print {
  ol { grid-template-columns: repeat(4, 1fr); gap: .5rem }
  li { break-inside: avoid; border: 1px solid #bbb } li > a, .missing { height: 9rem }
}
"""


def write_contact_sheet(page: str | os.PathLike[str], results: SearchResults, title: str) -> int:
    """Write the page of a search.

    Args:
        page: path of the HTML file; an existing one is replaced.
        results: of the search.
        title: what was searched, for people.

    Returns:
        The number of images that could not be read; the page says so in their place.

    Raises:
        OutputError: if the page cannot be written.
    """
    with ThreadPoolExecutor(decoding_threads()) as pool:
        thumbnails = list(pool.map(_embedded_thumbnail, [hit.path for hit in results]))
    folder = os.path.dirname(os.path.abspath(page))
    items = (
        _item(rank, hit, thumbnail, folder)
        for rank, (hit, thumbnail) in enumerate(zip(results, thumbnails, strict=True), 1)
    )
    with replace_file(page) as temporary:
        # a file name that is not valid Unicode is shown with escapes
        temporary.write_text(_page(results, title, items), encoding="utf-8", errors="backslashreplace")
    return thumbnails.count(None)


def format_taken_at(taken_at: str | None) -> str:
    """Format a date of EXIF for people: "2023-05-01 12:30"; "" if it is unknown."""
    return taken_at[:16].replace("T", " ") if taken_at else ""


def _embedded_thumbnail(path: str) -> tuple[str, int, int] | None:
    """Return a thumbnail as a data address, with its width and height; None if the file cannot be read."""
    from oneclip.image.thumbnail import encode_thumbnail, make_thumbnail

    image = make_thumbnail(path)
    if image is None:
        return None
    return data_address(encode_thumbnail(image)), image.width, image.height


def _page(results: SearchResults, title: str, items: Iterable[str]) -> str:
    count = f"{len(results)} image{'' if len(results) == 1 else 's'}"
    left_out = [f"{results.hidden} hidden: too little relevance"] if results.hidden else []
    left_out += [f"{results.repeated} left out: like a better one"] if results.repeated else []
    body = (
        f"<header><h1>{escape(title)}</h1>\n<p>{', '.join([count, *left_out])}</p></header>\n"
        f"<main><ol>\n{''.join(items)}</ol></main>\n"
        f"<footer><p>Found by OneCLIP with {escape(results.model)} in {escape(results.index)}</p></footer>\n"
    )
    return render_page(title, body, _STYLE)


def _item(rank: int, hit: Hit, thumbnail: tuple[str, int, int] | None, folder: str) -> str:
    name = escape(os.path.basename(hit.path))
    if thumbnail is None:
        image = f'<div class="missing" role="img" aria-label="{name}: not readable">not found or not readable</div>'
    else:
        address, width, height = thumbnail
        image = (
            f'<a href="{escape(_link(hit.path, folder))}"><img src="{address}" width="{width}" height="{height}" '
            f'alt="{name}"></a>'
        )
    facts = [format_taken_at(hit.taken_at), hit.camera or "", f"{hit.width}\xa0×\xa0{hit.height}"]
    score = f"{rank}. score {hit.score:.3f}"
    bar = ""
    if hit.relevance is not None:
        digits = 0 if hit.relevance >= 0.1 else 1
        score = f"{rank}. {100 * hit.relevance:.{digits}f} % relevant"
        bar = f'<div class="bar" style="width:{100 * hit.relevance:.1f}%"></div>'
    return (
        f'<li>{image}<div class="caption">{bar}<p>{score}</p>'
        f'<p class="soft">{escape(" · ".join(filter(None, facts)))}</p>'
        f'<p title="{escape(hit.path)}">{escape(_short(hit.path, folder))}</p></div></li>\n'
    )


def _link(path: str, folder: str) -> str:
    """Return the address of a file: relative if it lies below the folder of the page, so that both can be moved."""
    if path.startswith(folder.rstrip(os.sep) + os.sep):
        return "./" + quote(os.fsencode(_short(path, folder)).replace(os.fsencode(os.sep), b"/"))
    return Path(path).as_uri()


def _short(path: str, folder: str) -> str:
    """Return a path relative to the folder of the page if it lies below it."""
    return path.removeprefix(folder.rstrip(os.sep) + os.sep)
