"""Contact sheet of a search: one HTML page with a thumbnail of each image, without external files or scripts."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from html import escape
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from oneclip.errors import ImageError
from oneclip.hardware import decoding_threads
from oneclip.hub.atomic import replace_file
from oneclip.search.results import Hit, SearchResults

THUMBNAIL_PIXELS = 256  # the longer side
JPEG_QUALITY = 85
MAX_PROFILE_BYTES = 8192  # larger colour profiles are those of printers

_STYLE = """
:root { color-scheme: light dark; --ink: #1d1d1f; --soft: #6a6a70; --page: #fff; --card: #f4f4f6; --bar: #3478c6 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ececf0; --soft: #a0a0a8; --page: #161618; --card: #232327; --bar: #6aa5ea }
}
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 100rem; padding: 1.5rem; font: 15px/1.45 system-ui, sans-serif;
  color: var(--ink); background: var(--page) }
h1 { font-size: 1.4rem; margin: 0 0 .25rem; overflow-wrap: anywhere }
header p, footer p { color: var(--soft); margin: 0 0 1.25rem; overflow-wrap: anywhere }
footer { margin-top: 1rem }
ol { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(11rem, 100%), 1fr)); gap: 1rem;
  list-style: none; margin: 0; padding: 0 }
li { background: var(--card); border-radius: .5rem; overflow: hidden; display: flex; flex-direction: column }
li > a, .missing { display: flex; align-items: center; justify-content: center; height: 13rem; padding: .5rem }
li > a:focus-visible { outline: 3px solid var(--bar); outline-offset: -3px }
img { max-width: 100%; max-height: 100%; width: auto; height: auto; border-radius: .25rem }
.missing { color: var(--soft); border: 2px dashed var(--soft); border-radius: .5rem; text-align: center }
.caption { padding: .25rem .75rem .75rem; font-size: .85rem }
.caption p { margin: .15rem 0 0; overflow-wrap: anywhere }
.soft { color: var(--soft) }
.bar { height: .3rem; background: var(--bar); border-radius: .15rem; min-width: 1px; print-color-adjust: exact;
  -webkit-print-color-adjust: exact }
@media print {
  :root { --ink: #000; --soft: #444; --page: #fff; --card: #fff }
  body { padding: 0; font-size: 10px } ol { grid-template-columns: repeat(4, 1fr); gap: .5rem }
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


def make_thumbnail(path: str, pixels: int = THUMBNAIL_PIXELS) -> Image.Image | None:
    """Decode an image file to an upright RGB thumbnail, transparent parts white; None if it cannot be read.

    Args:
        path: of the file.
        pixels: the longer side, unless the image is smaller.
    """
    from oneclip.image import open_image

    def enough(size: tuple[int, int]) -> tuple[int, int]:
        scale = min(1.0, 2 * pixels / max(size))  # at twice the size, shrinking it stays smooth
        return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))

    try:
        image = open_image(path, min_size=enough, truncated="accept")
    except (ImageError, OSError):
        return None
    profile = image.info.get("icc_profile") if image.mode == "RGB" else None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, "white")
        canvas.alpha_composite(image)
        image = canvas
    image = image.convert("RGB")
    image.thumbnail((pixels, pixels), Image.Resampling.LANCZOS)
    image.info = {"icc_profile": profile} if profile and len(profile) <= MAX_PROFILE_BYTES else {}
    return image


def format_taken_at(taken_at: str | None) -> str:
    """Format a date of EXIF for people: "2023-05-01 12:30"; "" if it is unknown."""
    return taken_at[:16].replace("T", " ") if taken_at else ""


def _embedded_thumbnail(path: str) -> tuple[str, int, int] | None:
    """Return a thumbnail as a data address, with its width and height; None if the file cannot be read."""
    image = make_thumbnail(path)
    if image is None:
        return None
    content = io.BytesIO()
    image.save(content, "JPEG", quality=JPEG_QUALITY, icc_profile=image.info.get("icc_profile"))
    data = base64.b64encode(content.getvalue()).decode("ascii")
    return f"data:image/jpeg;base64,{data}", image.width, image.height


def _page(results: SearchResults, title: str, items: Iterable[str]) -> str:
    count = f"{len(results)} image{'' if len(results) == 1 else 's'}"
    left_out = [f"{results.hidden} hidden: too little relevance"] if results.hidden else []
    left_out += [f"{results.repeated} left out: like a better one"] if results.repeated else []
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style></head>\n"
        f"<body><header><h1>{escape(title)}</h1>\n<p>{', '.join([count, *left_out])}</p></header>\n"
        f"<main><ol>\n{''.join(items)}</ol></main>\n"
        f"<footer><p>Found by OneCLIP with {escape(results.model)} in {escape(results.index)}</p></footer>\n"
        "</body></html>\n"
    )


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
