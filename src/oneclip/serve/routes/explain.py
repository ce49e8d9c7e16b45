"""Route of heat maps: POST /v1/explain."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Depends
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import Response

from oneclip.errors import ConfigError, ImageError, TextError
from oneclip.explain import Maps
from oneclip.explain.placement import Axis, Placement
from oneclip.image.thumbnail import encode_thumbnail
from oneclip.search.duplicates import read_status
from oneclip.serve.bodies import checked, read_json, split_form
from oneclip.serve.embedder import Embedder
from oneclip.serve.items import Part, bad_item, check_text, item_error, read_images
from oneclip.serve.json_response import json_response
from oneclip.serve.model_names import check_model
from oneclip.serve.routes.search import Indexes
from oneclip.serve.search_parts import parse_image
from oneclip.serve.state import State, ready_embedder
from oneclip.serve.uploads import FORM, media_type, read_form

if TYPE_CHECKING:
    from oneclip.serve.served_index import ServedIndex

router = APIRouter(tags=["Heat maps"])

MAX_TEXTS = 32
VALUES_PIXELS = 64  # numbers along the longer side of an image
PNG = "image/png"

_IMAGE = {
    "anyOf": [
        {"type": "string", "description": "a data URI, base64, or a URL if the server fetches images"},
        {"type": "object", "properties": {"sha256": {"type": "string"}}, "required": ["sha256"]},
    ]
}
_STRINGS = {"type": "array", "items": {"type": "string"}}


class ExplainRequest(BaseModel):
    """Body of POST /v1/explain. The image and the texts are checked by hand, so that an error names the item."""

    model_config = ConfigDict(extra="forbid")

    image: Annotated[Any, WithJsonSchema(_IMAGE)] = Field(
        description="the image; an indexed one by its sha256"
    )
    texts: Annotated[list[Any], WithJsonSchema(_STRINGS)] = Field(
        min_length=1, max_length=MAX_TEXTS, description="what to look for, each against the others"
    )
    template: str | list[str] | None = Field(None, description="a sentence with {} where the text goes")
    method: Literal["auto", "dense", "gradient", "windows"] = Field("auto", description="see docs/explain.md")
    size: int = Field(
        1024, ge=0, le=1600, description="pixels of the longer side of the overlays; 0 for none"
    )
    index: str | None = Field(None, description="of an indexed image; the first one by default")
    model: str | None = Field(None, description="the model that is served, or an alias of it")


_FORM_SCHEMA = {
    "type": "object",
    "properties": {
        "image": {"type": "string", "format": "binary"},
        "texts": {**_STRINGS, "description": "repeated, or a JSON list"},
        "template": _STRINGS,
        "method": {"type": "string"},
        "size": {"type": "integer"},
        "model": {"type": "string"},
    },
    "required": ["image", "texts"],
}
_DOCUMENTED: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": ExplainRequest.model_json_schema()},
            FORM: {"schema": _FORM_SCHEMA},
        },
    },
    "responses": {"200": {"content": {"application/json": {}, PNG: {}}}},
}


@router.post("/v1/explain", summary="Find where in an image texts are", openapi_extra=_DOCUMENTED)
async def explain(
    request: Request, state: State, indexes: Indexes, embedder: Annotated[Embedder, Depends(ready_embedder)]
) -> Response:
    """Make a heat map of an image for each text; `Accept: image/png` returns the first one, drawn over the image."""
    if media_type(request) == FORM:
        async with read_form(request, max_files=1) as form:
            body = checked(ExplainRequest, await _read_form(form))
    else:
        body = checked(ExplainRequest, read_json(await request.body()))
    check_model(body.model, state)
    texts = [_checked_text(text, f"texts[{i}]") for i, text in enumerate(body.texts)]
    part = parse_image(body.image, "image") if not isinstance(body.image, bytes) else None
    if part is not None and part.kind == "indexed":
        file = await embedder.run(_indexed_file, indexes.find(body.index), part.value)
    else:
        sent = Part(body.image if part is None else part.value, "image", 0)
        [file] = await read_images([sent], embedder, state.settings)
    maps = await _maps(embedder, file, texts, body)
    if PNG in request.headers.get("accept", "").lower():
        return Response(await embedder.run(_png, maps, body.size), media_type=PNG)
    return json_response({"model": embedder.encoder.name, **await embedder.run(_describe, maps, body.size)})


async def _read_form(form: FormData) -> dict[str, Any]:
    single, lists = ("method", "size", "model"), ("texts",)
    fields, files = split_form(form, single=single, repeated=("template",), lists=lists)
    for name, file in files:
        if name != "image":
            raise bad_item(f"unknown file {name[:100]!r}; expected image", name[:100], "invalid_value")
        fields["image"] = await file.read()
    return fields


def _checked_text(value: Any, param: str) -> str:
    text = check_text(value, param)
    if not text.strip():
        raise bad_item(f"{param} is empty; give words that describe an image", param, "invalid_value")
    return text


def _indexed_file(index: ServedIndex, sha256: str) -> bytes:
    """Return the file of an indexed image.

    Raises:
        RequestError: 400, if the index has no image of that content, or its file has changed.
    """
    content = index.index.catalogue.content_of(sha256)
    for entry in [] if content is None else index.search.selection().entries([content[0]]):
        if read_status(entry) is not None:
            return Path(entry.path).read_bytes()
    message = f"image: no image of the index {index.name} has the sha256 {sha256}, or its file has changed"
    raise bad_item(message, "image", "unknown_image")


async def _maps(embedder: Embedder, file: bytes, texts: Sequence[str], body: ExplainRequest) -> Maps:
    """Make the maps, and answer what is wrong with the request by its name."""
    try:
        return await embedder.explain(file, texts, method=body.method, template=body.template)
    except ImageError as error:
        raise item_error(error, "image") from error
    except TextError as error:
        raise item_error(error, "texts") from error
    except ConfigError as error:  # a method that the model has not
        raise bad_item(str(error), "method", "invalid_value") from error


def _describe(maps: Maps, size: int) -> dict[str, Any]:
    """Return the maps as JSON has them, but for arrays."""
    drawn, values, boxes = _shrunk(maps, size), _shrunk(maps, VALUES_PIXELS).values, maps.boxes()
    return {
        "width": maps.image.width,
        "height": maps.image.height,
        "method": maps.method,
        "contrast": maps.contrast,
        "ceiling": maps.ceiling,
        "maps": [
            {
                "text": text,
                "score": float(maps.scores[i]),
                "peak": maps.peak(i)._asdict(),
                "boxes": [box._asdict() for box in boxes[i]],
                "values": values[i],
                "overlay": _data_uri(drawn.overlay(i)) if size else None,
            }
            for i, text in enumerate(maps.texts)
        ],
    }


def _png(maps: Maps, size: int) -> bytes:
    content = io.BytesIO()
    _shrunk(maps, size or max(maps.image.size)).overlay(0).save(content, "PNG")
    return content.getvalue()


def _data_uri(overlay: Image.Image) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(encode_thumbnail(overlay)).decode()


def _shrunk(maps: Maps, pixels: int) -> Maps:
    """Return the maps of the same image with at most so many pixels on its longer side."""
    width, height = maps.image.size
    scale = min(1.0, max(1, pixels) / max(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))

    def shrunk(axis: Axis, length: int) -> Axis:
        return replace(axis, pixels=length, scale=axis.scale * axis.pixels / length)

    rows, columns = maps.placement.rows, maps.placement.columns
    return replace(
        maps,
        image=maps.image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0),
        placement=Placement(shrunk(rows, size[1]), shrunk(columns, size[0])),
    )
