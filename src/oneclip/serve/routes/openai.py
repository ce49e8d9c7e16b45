"""Routes of OpenAI's protocol: POST /v1/embeddings, and GET /v1/models."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field, WithJsonSchema
from starlette.responses import Response

from oneclip.serve.embedder import Embedder
from oneclip.serve.items import MAX_PARTS, Items, bad_item, describe
from oneclip.serve.json_response import json_response
from oneclip.serve.model_names import check_model
from oneclip.serve.state import ServerState, State, ready_embedder
from oneclip.serve.vectors import check_dimensions, cut, to_base64

router = APIRouter(tags=["OpenAI"])
STARTED = int(time.time())

_IMAGE = {"type": "string", "description": "a data URI, base64, or a URL if the server fetches images"}
_PART = {
    "type": "object",
    "properties": {
        "type": {"type": "string"},
        "text": {"type": "string"},
        "image": _IMAGE,
        "image_url": {"anyOf": [_IMAGE, {"type": "object", "properties": {"url": _IMAGE}}]},
    },
}
_TEXT = {"type": "string"}
_INPUT = {
    "anyOf": [_TEXT, _PART, {"type": "array", "items": {"anyOf": [_TEXT, _PART]}, "maxItems": MAX_PARTS}]
}
_MESSAGE = {
    "type": "object",
    "properties": {
        "role": {"type": "string"},
        "content": {"anyOf": [_TEXT, {"type": "array", "items": _PART}]},
    },
}


class EmbeddingsRequest(BaseModel):
    """Body of POST /v1/embeddings. `input` and `messages` are checked by hand, so that an error names the item."""

    model: str | None = Field(None, description="the model that is served, or an alias of it")
    input: Annotated[Any, WithJsonSchema(_INPUT)] = Field(
        None, description="texts and images; one with both is embedded as the mean of the two unit vectors"
    )
    messages: Annotated[Any, WithJsonSchema({"type": "array", "items": _MESSAGE})] = Field(
        None, description="in place of input: one embedding for all texts and images of a conversation"
    )
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="base64: of little-endian 32-bit floats"
    )
    dimensions: int | None = Field(None, ge=1, description="keep as many numbers, and normalize again")
    user: Any = Field(None, description="not used")
    truncate: bool = Field(False, description="cut texts that are too long; an extension of OneCLIP")


@router.post("/v1/embeddings", summary="Embed texts and images (OpenAI)")
async def create_embeddings(
    body: EmbeddingsRequest, state: State, embedder: Annotated[Embedder, Depends(ready_embedder)]
) -> Response:
    """Embed texts and images, in the shape of OpenAI's API."""
    model = check_model(body.model, state)
    check_dimensions(body.dimensions, embedder.encoder, "dimensions")
    items = _parse(body, Items(state.settings))
    features, tokens = await items.embed(embedder, truncate=body.truncate)
    features = cut(features, body.dimensions)
    rows: Any = to_base64(features) if body.encoding_format == "base64" else features
    data = [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(rows)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json_response({"object": "list", "data": data, "model": model, "usage": usage})


@router.get("/v1/models", summary="List the model that is served")
async def list_models(state: State, embedder: Annotated[Embedder, Depends(ready_embedder)]) -> Response:
    """List the model that is served, with facts about its embeddings."""
    return json_response({"object": "list", "data": [_describe_model(embedder, state)]})


@router.get("/v1/models/{model:path}", summary="Describe the model that is served")
async def retrieve_model(
    model: str, state: State, embedder: Annotated[Embedder, Depends(ready_embedder)]
) -> Response:
    """Describe the model that is served, by its name or an alias."""
    check_model(model, state)
    return json_response(_describe_model(embedder, state))


def _describe_model(embedder: Embedder, state: ServerState) -> dict[str, Any]:
    """Return OpenAI's facts about a model, and ours."""
    encoder = embedder.encoder
    return {
        "id": encoder.name,
        "object": "model",
        "created": STARTED,
        "owned_by": "oneclip",
        "aliases": list(state.settings.aliases),
        "embed_dim": encoder.embed_dim,
        "context_length": encoder.context_length,
        "image_size": list(encoder.image_size),
        "precision": encoder.precision,
        "depends_on_batch": not embedder.is_batch_invariant,
    }


def _parse(body: EmbeddingsRequest, items: Items) -> Items:
    if (body.input is None) == (body.messages is None):
        found = "neither" if body.input is None else "both"
        raise bad_item(f'expected "input" or "messages"; found {found}', "input", "invalid_value")
    if body.messages is not None:
        _add_messages(items, body.messages)
    elif not isinstance(body.input, list):
        _add_input(items, body.input, "input")
    elif not body.input:
        raise bad_item("input is an empty list", "input", "invalid_value")
    else:
        for i, value in enumerate(body.input):
            _add_input(items, value, f"input[{i}]")
    return items


def _add_input(items: Items, value: Any, param: str) -> None:
    items.begin()
    if isinstance(value, dict):
        items.add_parts(value, param)
    elif isinstance(value, str):
        items.add_text(value, param)
    elif isinstance(value, int | list) and not isinstance(value, bool):
        raise bad_item(
            f"{param} looks like token ids, which are those of another tokenizer; send the text itself",
            param,
            "invalid_type",
        )
    else:
        raise bad_item(
            f"{param} must be a string or an object with a text or an image; found {describe(value)}",
            param,
            "invalid_type",
        )


def _add_messages(items: Items, messages: Any) -> None:
    """Add all messages of a conversation as one item."""
    items.begin()
    if not isinstance(messages, list) or not messages:
        raise bad_item("messages must be a list with one or more messages", "messages", "invalid_type")
    for i, message in enumerate(messages):
        content = message.get("content") if isinstance(message, dict) else None
        items.add_content(content, f"messages[{i}].content")
