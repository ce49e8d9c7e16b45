"""The ASGI application: routes, errors, and what begins and ends with the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

import oneclip
from oneclip._version import __version__
from oneclip.serve.embedder import Embedder
from oneclip.serve.errors import RequestError
from oneclip.serve.routes import classify, cohere, images, immich, openai, page, search, status
from oneclip.serve.settings import ServeSettings
from oneclip.serve.state import ServerState

ROUTERS = (openai, cohere, images, classify, search, immich, status, page)


def create_app(settings: ServeSettings) -> FastAPI:
    """Make the application of one server process; the model is loaded once it starts."""
    state = ServerState(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        encoder = await asyncio.to_thread(oneclip.load, settings.model or "pocket")
        state.embedder = Embedder(encoder, settings)
        yield
        state.embedder.close()

    app = FastAPI(title="OneCLIP", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.server = state
    for module in ROUTERS:
        app.include_router(module.router)
    app.add_exception_handler(RequestError, _answer_request_error)
    app.add_exception_handler(RequestValidationError, _answer_validation_error)
    return app


async def _answer_request_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestError)
    return JSONResponse(error.body(), error.status, error.headers)


async def _answer_validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    param = ".".join(str(part) for part in first["loc"][1:])
    return JSONResponse(
        RequestError(422, first["msg"], param=param or None, code="invalid_value").body(), 422
    )
