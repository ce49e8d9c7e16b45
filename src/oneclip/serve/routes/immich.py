"""Routes of Immich's machine-learning protocol: POST /predict and GET /ping.

Immich sends one task at a time: `{"clip": {"visual": {"modelName": …}}}` with an image, or `"textual"` with a text. Its
other tasks, faces and the text in images, are refused: for them Immich needs a server of its own.
"""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from oneclip.errors import ImageError
from oneclip.serve.embedder import Embedder
from oneclip.serve.errors import RequestError
from oneclip.serve.items import Items, bad_item, item_error
from oneclip.serve.json_response import json_response
from oneclip.serve.model_names import check_model
from oneclip.serve.state import State, ready_embedder
from oneclip.serve.uploads import FORM, URL_ENCODED, read_form, read_image_facts

router = APIRouter(tags=["Immich"])

TASK, VISUAL, TEXTUAL = "clip", "visual", "textual"
_STRING, _FILE = {"type": "string"}, {"type": "string", "format": "binary"}
_FIELDS = {"entries": _STRING, "image": _FILE, "text": _STRING}
_FORM = {"schema": {"type": "object", "properties": _FIELDS, "required": ["entries"]}}
_DOCUMENTED: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {FORM: _FORM, URL_ENCODED: _FORM},
    }
}


@router.get("/ping", summary="Answer Immich that the server is there", response_class=PlainTextResponse)
async def ping() -> PlainTextResponse:
    """Answer "pong", in plain text."""
    return PlainTextResponse("pong")


@router.post("/predict", summary="Embed an image or a text (Immich)", openapi_extra=_DOCUMENTED)
async def predict(
    request: Request, state: State, embedder: Annotated[Embedder, Depends(ready_embedder)]
) -> Response:
    """Embed an image or a text for Immich, whose vectors are JSON in a string."""
    items = Items(state.settings)
    items.begin()
    async with read_form(request, max_files=2) as form:
        kind, name = _parse_entries(form.get("entries"))
        check_model(name, state)
        if kind == VISUAL:
            items.add_image(await _image(form), "image")
        else:
            items.add_text(form.get("text"), "text")
    features, _ = await items.embed(embedder, truncate=True)  # as Immich's own server does
    answer: dict[str, Any] = {TASK: orjson.dumps(features[0], option=orjson.OPT_SERIALIZE_NUMPY).decode()}
    for image in items.images:
        try:
            facts = await embedder.run(read_image_facts, image.value, embedder.encoder.max_pixels)
        except ImageError as error:
            raise item_error(error, image.param) from error
        answer |= {"imageHeight": facts.height, "imageWidth": facts.width}
    return json_response(answer)


async def _image(form: FormData) -> bytes:
    image = form.get("image")
    if not isinstance(image, UploadFile):
        raise bad_item("the form has no file 'image'", "image")
    return await image.read()


def _parse_entries(text: object) -> tuple[str, str]:
    """Return whether an image or a text is to be embedded, and the name of the model.

    The language that Immich sends with a text is not used: texts of all languages are tokenized alike.
    """
    try:
        entries = orjson.loads(text) if isinstance(text, str) else None
    except orjson.JSONDecodeError as error:
        raise _bad_entries(f"is not JSON: {error}") from error
    if not isinstance(entries, dict):
        raise _bad_entries('must be a JSON object such as {"clip": {"visual": {"modelName": "pocket"}}}')
    others = [task for task in entries if task != TASK]
    if others:
        raise _bad_entries(
            f"asks for {others[0][:100]!r}; this server embeds images and texts ({TASK!r}) only: switch the task off "
            "in Immich, or give Immich the address of its own machine-learning server for it",
            "unsupported_task",
        )
    kinds = entries.get(TASK)
    if not isinstance(kinds, dict) or len(kinds) != 1 or not kinds.keys() <= {VISUAL, TEXTUAL}:
        raise _bad_entries(f"needs {TASK!r} with either {VISUAL!r} or {TEXTUAL!r}")
    ((kind, entry),) = kinds.items()
    name = entry.get("modelName") if isinstance(entry, dict) else None
    if not isinstance(name, str):
        raise _bad_entries(f"has no modelName for {kind!r}")
    return kind, name


def _bad_entries(message: str, code: str = "invalid_value") -> RequestError:
    return bad_item(f"entries {message}", "entries", code)
