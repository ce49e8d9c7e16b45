"""Routes of the web page: its HTML, modules and style, from the folder `page` of the package.

The page is plain HTML, ES modules and CSS. It loads nothing from another host, which its Content-Security-Policy
enforces, and it calls the same API as every other client.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib.resources import files

from fastapi import APIRouter, Request, Response

from oneclip.serve.errors import RequestError
from oneclip.serve.state import State

router = APIRouter()

MEDIA_TYPES = {
    "index.html": "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    **dict.fromkeys(
        (
            "api.js",
            "app.js",
            "controls.js",
            "dom.js",
            "dropped.js",
            "duplicates.js",
            "grid.js",
            "labels.js",
            "layout.js",
            "query.js",
            "state.js",
            "viewer.js",
        ),
        "text/javascript; charset=utf-8",
    ),
}
"""Media type of each file of the page. Names that are not here do not exist: none becomes a path."""

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob: data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}


@router.get("/", summary="The page", response_class=Response)
def page(request: Request, state: State) -> Response:
    """Return the page for people: search, duplicates, and labels of an image."""
    return _answer("index.html", request, state)


@router.get("/page/{name}", summary="A file of the page", response_class=Response)
def page_file(name: str, request: Request, state: State) -> Response:
    """Return a module or the style of the page."""
    return _answer(name, request, state)


def _answer(name: str, request: Request, state: State) -> Response:
    if not state.settings.page:
        raise RequestError(
            404, "the page is switched off (--no-page); the API is described at /docs", code="no_page"
        )
    if name not in MEDIA_TYPES:
        raise RequestError(404, f"the page has no file {name[:80]!r}; it begins at /", code="not_found")
    content, etag = _read(name)
    headers = {**SECURITY_HEADERS, "ETag": etag, "Cache-Control": "no-cache"}
    known = request.headers.get("if-none-match", "")
    if etag in (tag.strip().removeprefix("W/") for tag in known.split(",")):
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=MEDIA_TYPES[name], headers=headers)


@lru_cache(maxsize=len(MEDIA_TYPES))
def _read(name: str) -> tuple[bytes, str]:
    """Return the content of a file of the page, and its entity tag."""
    content = files("oneclip.serve").joinpath("page", name).read_bytes()
    return content, f'"{hashlib.sha256(content).hexdigest()[:32]}"'
