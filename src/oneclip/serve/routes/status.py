"""Routes about the server itself: health, readiness, metrics, documentation."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from oneclip.serve.docs_page import docs_page
from oneclip.serve.embedder import Embedder
from oneclip.serve.errors import NotReadyError, QueueFullError, RequestError
from oneclip.serve.json_response import json_response
from oneclip.serve.state import State, ready_embedder

router = APIRouter()

HEALTH_SECONDS = 5.0
PAUSE_SECONDS = 0.02
_HOST = re.compile(r"[\w.\[\]:-]+", re.ASCII)


@router.get("/health", summary="Send a small text through the queue; 503 if it does not come back")
async def health(state: State, embedder: Annotated[Embedder, Depends(ready_embedder)]) -> Response:
    """Encode a text like any other, and answer how long it took."""
    begin = time.perf_counter()
    seconds = min(HEALTH_SECONDS, state.settings.timeout)
    try:
        await asyncio.wait_for(_encode_text(embedder), seconds)
    except asyncio.TimeoutError:
        raise NotReadyError(f"a text did not come back within {seconds:g} seconds") from None
    except RequestError as error:
        raise NotReadyError(f"a text could not be encoded: {error.message}") from error
    milliseconds = round((time.perf_counter() - begin) * 1000, 1)
    return json_response({"status": "ok", "model": embedder.encoder.name, "ms": milliseconds})


async def _encode_text(embedder: Embedder) -> None:
    while True:
        try:
            await embedder.embed_texts(["health"])
            return
        except QueueFullError:  # a full queue is no fault as long as it moves
            await asyncio.sleep(PAUSE_SECONDS)


@router.get("/ready", summary="Say whether the model is loaded and new indexes are complete; else 503")
async def ready(state: State) -> Response:
    """Answer 200 once requests can be answered."""
    if state.embedder is None:
        raise NotReadyError("the model is being loaded")
    if not state.is_ready:
        raise NotReadyError("an index is being made for the first time")
    return json_response({"status": "ready", "model": state.embedder.encoder.name})


@router.get("/metrics", summary="Metrics in the format of Prometheus", response_class=Response)
def metrics(state: State) -> Response:
    """Return the metrics of all processes of this server."""
    content, media_type = state.metrics.render()
    return Response(content, headers={"Content-Type": media_type})


@router.get("/docs", summary="Describe all routes, on a page", response_class=Response)
def docs(request: Request) -> Response:
    """Return a page that describes all routes, made from `/openapi.json`."""
    schema: dict[str, Any] = request.app.openapi()
    policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"
    host = request.headers.get("host", "")
    if not _HOST.fullmatch(host):
        host = "127.0.0.1:7997"
    return Response(
        docs_page(schema, host),
        media_type="text/html; charset=utf-8",
        headers={"Content-Security-Policy": policy},
    )
