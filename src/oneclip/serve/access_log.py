"""Logs in JSON, one line for each request; no contents of requests, no keys."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
import uuid
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import import_module
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from oneclip.serve.errors import RequestError
from oneclip.serve.metrics import Metrics

logger = logging.getLogger("oneclip.serve")
REQUEST_ID = "X-Request-ID"
CLIENT_LEFT = 499  # as nginx logs it: no status was sent


@dataclass
class RequestRecord:
    """What the log says of a request, beside what its scope says.

    Attributes:
        items: images and texts that were encoded.
        status: of the response; 499 if the client left before it began.
        bytes: of the body of the response.
    """

    items: int = 0
    status: int = CLIENT_LEFT
    bytes: int = 0


_current: ContextVar[RequestRecord | None] = ContextVar("request_record", default=None)


def count_items(count: int) -> None:
    """Add images or texts to what the log says of the current request."""
    record = _current.get()
    if record is not None:
        record.items += count


class AccessLog:
    """ASGI middleware that logs requests, names each in the header X-Request-ID, and answers what raised with 500."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Log and count one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begin, record = time.perf_counter(), RequestRecord()
        request_id = _request_id(Headers(scope=scope).get(REQUEST_ID))
        _current.set(record)

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            elif message["type"] == "http.response.body":
                record.bytes += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, receive, send_counted)
        except Exception:
            logger.exception("error in a request", extra={"fields": {"id": request_id}})
            if record.status != CLIENT_LEFT:  # the response has started
                raise
            error = RequestError(500, f"this is a bug in oneclip; the log has more on {request_id}")
            await error.response()(scope, receive, send_counted)
        finally:
            seconds = time.perf_counter() - begin
            route = getattr(
                scope.get("route"), "path", None
            )  # never the path itself, which may say something private
            self.metrics.request(route or "none", record.status, seconds)
            if logger.isEnabledFor(logging.INFO):
                fields = {
                    "id": request_id,
                    "client": scope["client"][0] if scope.get("client") else None,
                    "method": scope["method"],
                    "route": route,
                    "status": record.status,
                    "ms": round(seconds * 1000, 1),
                    "items": record.items,
                    "bytes": record.bytes,
                }
                logger.info("request", extra={"fields": fields})


def _request_id(given: str | None) -> str:
    """Return the client's name of the request if it is harmless, or a new one."""
    return given if given and re.fullmatch(r"[\w.-]{1,64}", given, re.ASCII) else uuid.uuid4().hex[:16]


class JsonFormatter(logging.Formatter):
    """Formatter of log records as JSON, one line each."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record; its attribute `fields`, if any, is added."""
        time_of = datetime.fromtimestamp(record.created, timezone.utc)
        entry: dict[str, Any] = {
            "time": time_of.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        entry |= getattr(record, "fields", {})
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def log_as_json() -> None:
    """Write the logs of this library, and warnings of all others, to stderr as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name, level in (("", logging.WARNING), ("oneclip", logging.INFO), ("uvicorn", logging.WARNING)):
        each = logging.getLogger(name)
        each.setLevel(level)
        each.handlers, each.propagate = [handler], False
    logging.captureWarnings(True)
    import_module("huggingface_hub.utils.logging")  # its logger then gets a handler for plain text
    logging.getLogger("huggingface_hub").handlers.clear()
    # it would log bytes of damaged forms, of which the client learns from the answer
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
