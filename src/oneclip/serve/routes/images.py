"""Route for plain image bytes: POST /v1/images/embed."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response

from oneclip.serve.embedder import Embedder
from oneclip.serve.errors import RequestError
from oneclip.serve.items import Items, bad_item
from oneclip.serve.json_response import json_response
from oneclip.serve.model_names import check_model
from oneclip.serve.state import State, ready_embedder
from oneclip.serve.uploads import FORM, media_type, read_form
from oneclip.serve.vectors import check_dimensions, cut, to_bytes

router = APIRouter(tags=["Images"])

BINARY = "application/octet-stream"
SHAPE_HEADER, DTYPE_HEADER = "X-Embeddings-Shape", "X-Embeddings-Dtype"

_FILE = {"type": "string", "format": "binary"}
_FILES = {"schema": {"type": "object", "additionalProperties": {"type": "array", "items": _FILE}}}
_DOCUMENTED: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"image/*": {"schema": _FILE}, BINARY: {"schema": _FILE}, FORM: _FILES},
    }
}


@router.post("/v1/images/embed", summary="Embed image files", openapi_extra=_DOCUMENTED)
async def embed_images(
    request: Request,
    state: State,
    embedder: Annotated[Embedder, Depends(ready_embedder)],
    model: Annotated[str | None, Query(description="the model that is served, or an alias of it")] = None,
    dimensions: Annotated[int | None, Query(description="keep as many numbers, and normalize again")] = None,
) -> Response:
    """Embed the image in the body, or those of a form; answer with JSON, or float32 if that is what is accepted."""
    name = check_model(model, state)
    check_dimensions(dimensions, embedder.encoder, "dimensions")
    items = Items(state.settings)
    kind = media_type(request)
    if kind.startswith("image/") or kind == BINARY:
        items.begin()
        items.add_image(await request.body(), "body")
    elif kind == FORM:
        await _read_files(request, items, state.settings.max_queue)
    else:
        expected = f"image/…, {BINARY} or {FORM}"
        raise RequestError(415, f"the body is {kind[:100]!r}; expected {expected}", code="unsupported_type")
    features, _ = await items.embed(embedder)
    features = cut(features, dimensions)
    if BINARY in request.headers.get("accept", "").lower():
        shape = ",".join(map(str, features.shape))
        return Response(to_bytes(features), 200, {SHAPE_HEADER: shape, DTYPE_HEADER: "<f4"}, BINARY)
    data = [
        {"object": "embedding", "index": i, "name": image.param, "embedding": row}
        for i, (image, row) in enumerate(zip(items.images, features, strict=True))
    ]
    return json_response({"object": "list", "data": data, "model": name})


async def _read_files(request: Request, items: Items, max_files: int) -> None:
    """Add the files of a form; each is named like its part, with a number where several have the same name."""
    async with read_form(request, max_files) as form:
        parts = form.multi_items()
        counts, seen = Counter(name for name, _ in parts), Counter[str]()
        for name, part in parts:
            param = name[:100] if counts[name] == 1 else f"{name[:100]}[{seen[name]}]"
            seen[name] += 1
            if not isinstance(part, UploadFile):
                raise bad_item(
                    f"the part {param!r} is not a file; model and dimensions belong in the query", param
                )
            items.begin()
            items.add_image(await part.read(), param)
    if not items.count:
        raise bad_item("the form has no files", "body")
