"""The ASGI application: routes, errors, and what begins and ends with the server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from PIL import Image
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from oneclip._version import __version__
from oneclip.errors import ImageError, QueryError, TextError
from oneclip.search.index import DEFAULT_MODEL
from oneclip.serve.access_log import REQUEST_ID, AccessLog
from oneclip.serve.api_keys import ApiKeys
from oneclip.serve.embedder import Embedder
from oneclip.serve.errors import ItemError, RequestError
from oneclip.serve.indexes import ServedIndexes, indexed_model
from oneclip.serve.request_limits import RequestLimits
from oneclip.serve.routes import classify, cohere, explain, images, immich, openai, page, search, status
from oneclip.serve.settings import ServeSettings
from oneclip.serve.state import ServerState

if TYPE_CHECKING:
    from oneclip.encoding import BaseEncoder

ROUTERS = (openai, cohere, images, classify, explain, search, immich, status, page)
PROBED_PATHS = ("/health", "/ready", "/ping", "/v1/models")  # also with HEAD, as load balancers do
POLL_SECONDS = 0.2
T = TypeVar("T")
logger = logging.getLogger("oneclip.serve")


def create_app(settings: ServeSettings, *, in_background: bool = False) -> FastAPI:
    """Make the application of one server process.

    Args:
        settings: of the server.
        in_background: whether its start waits for the model. If not, requests get 503 meanwhile, and if the model
            cannot be loaded, `app.state.server.failure` has the reason.

    Raises:
        ConfigError: if the keys cannot be read.
    """
    state = ServerState(
        settings, ApiKeys(settings.api_key_file) if settings.api_key_file is not None else None
    )

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        starting = asyncio.ensure_future(_start(state))
        starting.add_done_callback(lambda task: _note_failure(task, state))
        if not in_background:
            await starting
        waiting = asyncio.ensure_future(_log_when_ready(state))
        try:
            yield
        finally:
            starting.cancel()
            waiting.cancel()
            await _stop(state)

    app = FastAPI(title="OneCLIP", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.server = state
    for module in ROUTERS:
        app.include_router(module.router)
    _answer_probes(app)
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)
    app.add_middleware(RequestLimits, state=state, content_types=_content_types(app))
    if settings.cors:
        app.add_middleware(
            _Cors,
            allow_origins=settings.cors,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            expose_headers=(REQUEST_ID, "Retry-After", images.SHAPE_HEADER, images.DTYPE_HEADER),
        )
    app.add_middleware(AccessLog, metrics=state.metrics)
    return app


class _Cors(CORSMiddleware):
    """CORS whose refusals have the shape of all errors."""

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answer what a browser asks before it sends the request of a page."""
        answer = super().preflight_response(request_headers)
        if answer.status_code == 200:
            return answer
        origin, method = request_headers["origin"], request_headers["access-control-request-method"]
        return RequestError(
            403,
            f"pages of {origin[:100]!r} may not send {method[:20]} here; expected GET or POST, of an origin that "
            "the server was started with (--cors)",
            code="origin_not_allowed",
            headers={"Vary": "Origin"},
        ).response()


def _answer_probes(app: FastAPI) -> None:
    """Answer HEAD like GET; the server leaves out the body. The schema, and so the documentation, stay as they are."""
    for route in (route for module in ROUTERS for route in module.router.routes):
        if isinstance(route, APIRoute) and route.path in PROBED_PATHS:
            app.add_api_route(
                route.path,
                route.endpoint,
                methods=["HEAD"],
                response_class=route.response_class,
                include_in_schema=False,
            )


# ------------------------------------------------------------------------------------------------- beginning and end


async def _start(state: ServerState) -> None:
    """Load the model, and open the indexes and begin to update them."""
    encoder = await _in_thread(lambda: _load(state.settings))
    state.embedder = embedder = Embedder(encoder, state.settings, state.metrics)
    state.indexes = await _in_thread(lambda: ServedIndexes(state.settings, embedder))
    state.indexes.start()


async def _log_when_ready(state: ServerState) -> None:
    while not state.is_ready:
        await asyncio.sleep(POLL_SECONDS)
    assert state.embedder is not None
    fields = {"model": state.embedder.encoder.name, "indexes": [index.name for index in state.indexes or ()]}
    logger.info("ready", extra={"fields": fields})


async def _stop(state: ServerState) -> None:
    if state.indexes is not None:
        await _in_thread(state.indexes.close)
    if state.embedder is not None:
        await _in_thread(state.embedder.close)


def _load(settings: ServeSettings) -> BaseEncoder:
    import oneclip

    indexed_name, indexed_precision = indexed_model(settings) or (DEFAULT_MODEL, None)
    name = settings.model or indexed_name
    precision = settings.precision or (indexed_precision if name == indexed_name else None)
    encoder = oneclip.load(name, settings.device, precision, max_pixels=settings.max_pixels)
    encoder.encode_images([Image.new("RGB", (8, 8))])  # the first of each takes longer than others
    encoder.encode_texts(["a text"])  # raises if the files of the tokenizer are missing
    return encoder


def _note_failure(task: asyncio.Future[None], state: ServerState) -> None:
    if not task.cancelled():
        state.failure = task.exception()


async def _in_thread(function: Callable[[], T]) -> T:
    """Call a function in a thread that does not keep the process from ending."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def settle(value: T | None, error: BaseException | None) -> None:
        if result.done():
            return
        if error is not None:
            result.set_exception(error)
        else:
            result.set_result(value)  # type: ignore[arg-type]

    def call() -> None:
        value, error = None, None
        try:
            value = function()
        except BaseException as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, value, error)

    threading.Thread(target=call, daemon=True).start()
    return await result


# -------------------------------------------------------------------------------------------------- errors, and types


async def _answer(request: Request, error: Exception) -> Response:
    """Answer an error of a request, of this library, or of Starlette."""
    if isinstance(error, RequestError):
        return error.response()
    if isinstance(error, HTTPException):
        message, code = str(error.detail), None
        if error.status_code == 404:
            message, code = "there is nothing at this address; /docs lists all routes", "not_found"
        elif error.status_code == 405:
            message = f"{request.method[:20]} is not possible here; /docs lists all routes"
        return RequestError(error.status_code, message, code=code, headers=error.headers).response()
    return RequestError(400, str(error), code="invalid_value").response()


async def _answer_validation_error(request: Request, error: Exception) -> Response:
    """Answer the first part of a request that has the wrong type."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = [str(part) for part in first["loc"] if part != "body"]
    param = ""
    for part in where:
        param += f"[{part}]" if part.isdigit() else f".{part}" if param else part
    param = param[:200]
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] in _NO_OBJECT:
        message = "must be a JSON object" if param else "the body must be a JSON object"
    if param:
        message = f"{param}: {message}"
    if first["type"] == "extra_forbidden":
        message = f"unknown field {param!r}"
    return RequestError(422, message, param=param or None, code="invalid_value").response()


_NO_OBJECT = ("model_attributes_type", "model_type", "dict_type")  # of pydantic


_HANDLERS = {
    RequestError: _answer,
    HTTPException: _answer,
    ItemError: _answer,
    ImageError: _answer,
    TextError: _answer,
    QueryError: _answer,
    RequestValidationError: _answer_validation_error,
}


def _content_types(app: FastAPI) -> Callable[[str, str], tuple[str, ...] | None]:
    """Return a function from method and path to the content types that a route takes, as its schema says."""
    types = {
        (method.upper(), path): tuple(operation["requestBody"]["content"])
        for path, operations in app.openapi()["paths"].items()
        for method, operation in operations.items()
        if "requestBody" in operation
    }
    return lambda method, path: types.get((method, path))
