"""Routes of search: POST /v1/search, GET /v1/indexes, duplicates, and thumbnails by content."""

from __future__ import annotations

import json
import re
from enum import IntEnum
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from starlette.responses import Response

from oneclip.errors import QueryError
from oneclip.search.near_groups import NEAR
from oneclip.search.where import compile_sql
from oneclip.serve.embedder import Embedder
from oneclip.serve.errors import NotReadyError, RequestError
from oneclip.serve.index_search import SearchPage
from oneclip.serve.indexes import ServedIndexes
from oneclip.serve.items import bad_item, check_text
from oneclip.serve.search_parts import encode_parts, parse_parts
from oneclip.serve.state import State, ready_embedder

router = APIRouter(tags=["Search"])

_SHA256 = re.compile(r"[0-9a-f]{64}")
_IMAGE = {
    "anyOf": [
        {"type": "string", "description": "a data URI, base64, or a URL if the server fetches images"},
        {"type": "object", "properties": {"sha256": {"type": "string"}}, "required": ["sha256"]},
    ]
}
_TEXTS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
_IMAGES = {"anyOf": [*_IMAGE["anyOf"], {"type": "array", "items": _IMAGE}]}


class ThumbnailSize(IntEnum):
    """Pixels of the longer side of a thumbnail."""

    small = 256
    large = 1600


class SearchRequest(BaseModel):
    """Body of POST /v1/search. Texts and images are checked by hand, so that an error names the item."""

    model_config = ConfigDict(extra="forbid")

    query: Annotated[Any, WithJsonSchema(_TEXTS)] = Field(
        None, description="words; `2:beach` counts twice. Nothing lists all images, the newest first"
    )
    like: Annotated[Any, WithJsonSchema(_IMAGES)] = Field(
        None, description="images that the results should look like; indexed ones by their sha256"
    )
    exclude: Annotated[Any, WithJsonSchema({"type": "array", "items": {}})] = Field(
        None, alias="not", description="words, or images as in `like`, that should not be there"
    )
    where: str | None = Field(
        None, max_length=10_000, description="a filter: taken_at >= 2023-05 and camera ~ 'Pixel'"
    )
    top: int = Field(20, ge=1, le=10_000_000, description="number of results")
    offset: int | None = Field(
        None,
        ge=0,
        le=10_000_000,
        description="number of results to skip: pages of all results. Without it, results come from the best `top` "
        "images, before those of low relevance are left out and before they are sorted, as by `oneclip search`",
    )
    min_relevance: float | None = Field(None, ge=0, le=1, description="least relevance of a result")
    sort: Literal["relevance", "date"] = Field("relevance", description="best first, or newest first")
    distinct: bool = Field(False, description="leave out results that look like a better one")
    index: str | None = Field(None, description="name of the index; the first one by default")


async def ready_indexes(state: State) -> ServedIndexes:
    """Return the indexes.

    Raises:
        NotReadyError: while they are opened.
    """
    if state.indexes is None:
        raise NotReadyError("the indexes are being opened; try again")
    return state.indexes


Indexes = Annotated[ServedIndexes, Depends(ready_indexes)]


@router.post("/v1/search", summary="Search images by words and by images")
async def search(
    body: SearchRequest,
    indexes: Indexes,
    embedder: Annotated[Embedder, Depends(ready_embedder)],
) -> Response:
    """Find the images of an index that fit all parts of a query best: what `oneclip search --json` prints."""
    index = indexes.find(body.index)
    parts = parse_parts(body.query, body.like, body.exclude, body.min_relevance)
    page = SearchPage(body.where, body.top, body.offset, body.sort, body.min_relevance, body.distinct)
    if page.where is not None:
        _check_filter(page.where)
    found = index.search
    queries, vectors = await encode_parts(parts, index, indexes, embedder)
    return _json(await indexes.run(found.search, queries, vectors, page))


@router.get("/v1/indexes", summary="List the indexes")
async def list_indexes(indexes: Indexes) -> Response:
    """List the indexes: images, progress and problem of the update, and the values that filters may use."""
    return _json({"indexes": await indexes.run(lambda: [index.describe() for index in indexes])})


@router.get("/v1/indexes/{name}/duplicates", summary="Find equal and similar images")
async def find_duplicates(
    name: str,
    indexes: Indexes,
    near: Annotated[float, Query(ge=0.5, le=1, description="least cosine of near images")] = NEAR,
) -> Response:
    """Group equal and similar images, the best copy first: what `oneclip duplicates --json` prints."""
    index = indexes.find(name)
    _ = index.search  # not before there are images
    return _json(await indexes.duplicates(index, near))


@router.get(
    "/v1/indexes/{name}/thumbs/{sha256}",
    summary="A thumbnail of an indexed image",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}}}},
)
async def read_thumbnail(
    name: str,
    sha256: str,
    request: Request,
    indexes: Indexes,
    embedder: Annotated[Embedder, Depends(ready_embedder)],
    size: Annotated[ThumbnailSize, Query(description="pixels of the longer side")] = ThumbnailSize.small,
) -> Response:
    """Return a JPEG of an indexed image, by the SHA-256 of its file."""
    index = indexes.find(name)
    headers = {"ETag": f'"{sha256}"', "Cache-Control": "private, max-age=31536000, immutable"}
    if not _SHA256.fullmatch(sha256):
        raise _no_image(name, sha256)
    known = request.headers.get("if-none-match", "")
    if headers["ETag"] in (tag.strip().removeprefix("W/") for tag in known.split(",")):
        return Response(status_code=304, headers=headers)
    catalogue, selection = index.index.catalogue, index.search.selection()
    content = await embedder.run(indexes.thumbnails.find, catalogue, selection, sha256, size)
    if content is None:
        raise _no_image(name, sha256)
    return Response(content, media_type="image/jpeg", headers=headers)


def _no_image(name: str, sha256: str) -> RequestError:
    message = f"no image of the index {name} has the sha256 {sha256[:80]}, or its file has changed"
    return RequestError(404, message, param="sha256", code="unknown_image")


def _check_filter(where: str) -> None:
    """Raise RequestError (400) for a filter that is not valid."""
    try:
        compile_sql(check_text(where, "where"))
    except QueryError as error:
        raise bad_item(str(error), "where", "invalid_filter") from error


def _json(answer: Any) -> Response:
    """Make a response; names of files that are not Unicode get escapes, as on the command line."""
    return Response(json.dumps(answer), media_type="application/json")
