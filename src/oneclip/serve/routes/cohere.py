"""Route of Cohere's protocol: POST /v2/embed."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field, WithJsonSchema
from starlette.responses import Response

from oneclip.errors import ImageError, TextTooLongError
from oneclip.serve.embedder import Embedder
from oneclip.serve.items import Items, Part, bad_item, describe, item_error
from oneclip.serve.json_response import json_response
from oneclip.serve.model_names import check_model
from oneclip.serve.state import State, ready_embedder
from oneclip.serve.uploads import ImageFacts, read_image_facts
from oneclip.serve.vectors import EMBEDDING_TYPES, check_dimensions, cut
from oneclip.text import Tokenizer

router = APIRouter(tags=["Cohere"])

MAX_BROKEN_STARTS = 16  # tokens to drop until a text begins with a whole one
_SOURCES = ("texts", "images", "inputs")
_STRINGS = {"type": "array", "items": {"type": "string"}}
_CONTENT = {
    "type": "object",
    "properties": {
        "type": {"enum": ["text", "image_url"]},
        "text": {"type": "string"},
        "image_url": {"type": "object", "properties": {"url": {"type": "string"}}},
    },
}
_INPUTS = {
    "type": "array",
    "items": {"type": "object", "properties": {"content": {"type": "array", "items": _CONTENT}}},
}


class EmbedRequest(BaseModel):
    """Body of POST /v2/embed. The items are checked by hand, so that an error names the item."""

    model: str | None = Field(None, description="the model that is served, or an alias of it")
    texts: Annotated[Any, WithJsonSchema(_STRINGS)] = None
    images: Annotated[Any, WithJsonSchema(_STRINGS)] = Field(None, description="data URIs")
    inputs: Annotated[Any, WithJsonSchema(_INPUTS)] = Field(
        None, description="one with several parts is embedded as the mean of their unit vectors"
    )
    input_type: Any = Field(None, description="not used: a model has one kind of embedding")
    truncate: Literal["NONE", "START", "END"] = Field(
        "END", description="which end of a text that is too long is cut; NONE: it is refused"
    )
    embedding_types: list[Literal["float", "int8", "uint8", "binary", "ubinary", "base64"]] = Field(
        ["float"], min_length=1
    )
    output_dimension: int | None = Field(None, description="keep as many numbers, and normalize again")
    max_tokens: int | None = Field(None, description="not less than what the model reads")


@router.post("/v2/embed", summary="Embed texts and images (Cohere)")
async def embed(
    body: EmbedRequest, state: State, embedder: Annotated[Embedder, Depends(ready_embedder)]
) -> Response:
    """Embed texts and images, in the shape of Cohere's API."""
    check_model(body.model, state)
    encoder = embedder.encoder
    check_dimensions(body.output_dimension, encoder, "output_dimension")
    if body.max_tokens is not None and body.max_tokens < encoder.context_length:
        raise bad_item(
            f"max_tokens is {body.max_tokens}; texts are cut at {encoder.context_length} tokens only",
            "max_tokens",
            "invalid_value",
        )
    items = _parse(body, Items(state.settings))
    if body.truncate == "START":
        items.texts = await embedder.run(_cut_starts, items.texts, encoder.tokenizer, encoder.context_length)
    await items.read_images(embedder)
    features, tokens = await items.embed(embedder, truncate=body.truncate == "END")
    features = cut(features, body.output_dimension)
    facts = await embedder.run(_image_facts, items.images, encoder.max_pixels)
    units = {"input_tokens": tokens} | ({"images": len(facts)} if facts else {})
    return json_response(
        {
            "id": str(uuid.uuid4()),
            "response_type": "embeddings_by_type",
            "embeddings": {kind: EMBEDDING_TYPES[kind](features) for kind in body.embedding_types},
            "texts": body.texts or [],
            "images": [image._asdict() for image in facts],
            "meta": {"api_version": {"version": "2"}, "billed_units": units},
        }
    )


def _parse(body: EmbedRequest, items: Items) -> Items:
    given = [name for name in _SOURCES if getattr(body, name) is not None]
    if len(given) != 1:
        found = " and ".join(given) or "none of them"
        raise bad_item(f"expected one of texts, images and inputs; found {found}", "texts", "invalid_value")
    (name,) = given
    values = getattr(body, name)
    if not isinstance(values, list) or not values:
        found = "an empty list" if values == [] else describe(values)
        raise bad_item(f"{name} must be a list with one or more items; found {found}", name, "invalid_type")
    for i, value in enumerate(values):
        items.begin()
        param = f"{name}[{i}]"
        if name == "texts":
            items.add_text(value, param)
        elif name == "images":
            items.add_image(value, param)
        else:
            content = value.get("content") if isinstance(value, dict) else None
            items.add_content(content, f"{param}.content")
    return items


def _image_facts(images: Sequence[Part], max_pixels: int | None) -> list[ImageFacts]:
    facts = []
    for image in images:
        try:
            facts.append(read_image_facts(image.value, max_pixels))
        except ImageError as error:
            raise item_error(error, image.param) from error
    return facts


def _cut_starts(texts: Sequence[Part], tokenizer: Tokenizer, context_length: int) -> list[Part]:
    """Cut the starts of texts that are too long."""
    return [text._replace(value=_cut_start(text, tokenizer, context_length)) for text in texts]


def _cut_start(text: Part, tokenizer: Tokenizer, context_length: int) -> str:
    """Return the longest end of a text that the model reads whole.

    Raises:
        RequestError: 400, if no text has these tokens, so that the tokenizer cannot express it.
    """

    def fits(value: str) -> bool:
        try:
            tokenizer(value, context_length, overflow="error")
        except TextTooLongError:
            return False
        return True

    if fits(text.value):
        return str(text.value)
    ids = tokenizer.encode(text.value)
    fewest, most = 0, min(len(ids), context_length)  # tokens that certainly fit, and that may
    while fewest < most:
        middle = (fewest + most + 1) // 2
        if fits(tokenizer.decode(ids[-middle:])):
            fewest = middle
        else:
            most = middle - 1
    for count in range(fewest, max(fewest - MAX_BROKEN_STARTS, 0), -1):
        end = tokenizer.decode(ids[-count:])
        if tokenizer.encode(end) == ids[-count:]:
            return end
    raise bad_item(
        f"{text.param} is too long, and its start cannot be cut between two tokens; use truncate END",
        text.param,
        "context_length_exceeded",
    )
