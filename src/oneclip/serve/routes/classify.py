"""Route of zero-shot classification: POST /v1/classify."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field, WithJsonSchema
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import Response

from oneclip.serve.bodies import checked, read_json, split_form
from oneclip.serve.embedder import Embedder
from oneclip.serve.items import Items
from oneclip.serve.json_response import json_response
from oneclip.serve.label_embeddings import embed_labels
from oneclip.serve.model_names import check_model
from oneclip.serve.state import State, ready_embedder
from oneclip.serve.uploads import FORM, media_type, read_form
from oneclip.text.labels import label_scores

router = APIRouter(tags=["Classification"])

_STRINGS = {"type": "array", "items": {"type": "string"}}


class ClassifyRequest(BaseModel):
    """Body of POST /v1/classify. Images and labels are checked by hand, so that an error names the item."""

    images: Annotated[list[Any], WithJsonSchema(_STRINGS)] = Field(
        min_length=1, description="data URIs, base64, or URLs if the server fetches images"
    )
    labels: Annotated[list[Any], WithJsonSchema(_STRINGS)] = Field(description="what an image may show")
    template: str | list[str] | None = Field(
        None, description="a sentence with {} where the label goes; several are averaged"
    )
    top: int | None = Field(None, ge=1, description="number of labels for each image; all by default")
    model: str | None = Field(None, description="the model that is served, or an alias of it")


_FORM_SCHEMA = {
    "type": "object",
    "properties": {
        "images": {"type": "array", "items": {"type": "string", "format": "binary"}},
        "labels": {"type": "array", "items": {"type": "string"}, "description": "repeated, or a JSON list"},
        "template": _STRINGS,
        "top": {"type": "integer"},
        "model": {"type": "string"},
    },
    "required": ["images", "labels"],
}
_DOCUMENTED: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": ClassifyRequest.model_json_schema()},
            FORM: {"schema": _FORM_SCHEMA},
        },
    }
}


@router.post("/v1/classify", summary="Find the label that fits each image best", openapi_extra=_DOCUMENTED)
async def classify(
    request: Request, state: State, embedder: Annotated[Embedder, Depends(ready_embedder)]
) -> Response:
    """Rank labels by how well they fit each image: what `oneclip classify --json` prints."""
    items = Items(state.settings)
    if media_type(request) == FORM:
        async with read_form(request, state.settings.max_queue) as form:
            body = checked(ClassifyRequest, await _read_form(form, items))
        names = body.images
    else:
        body = checked(ClassifyRequest, read_json(await request.body()))
        names = [f"images[{i}]" for i in range(len(body.images))]
        for image, name in zip(body.images, names, strict=True):
            items.begin()
            items.add_image(image, name)
    check_model(body.model, state)
    label_features = await embed_labels(body.labels, body.template, embedder)
    features, _ = await items.embed(embedder)
    encoder = embedder.encoder
    rankings = label_scores(
        body.labels, encoder.probabilities(features, label_features), features @ label_features.T, body.top
    )
    found = [{"path": name, "labels": labels} for name, labels in zip(names, rankings, strict=True)]
    return json_response({"model": encoder.name, "template": body.template, "images": found, "skipped": []})


async def _read_form(form: FormData, items: Items) -> dict[str, Any]:
    """Add the files of a form to the items; return the other fields, and for each file its name."""
    fields, files = split_form(form, single=("top", "model"), repeated=("template",), lists=("labels",))
    names = []
    for _, file in files:
        param = f"images[{items.count}]"
        items.begin()
        items.add_image(await file.read(), param)
        names.append((file.filename or param)[:1000])
    if len(template := fields.get("template", [])) == 1:
        fields["template"] = template[0]
    return {"labels": [], **fields, "images": names}
