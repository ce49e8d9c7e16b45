"""Errors of requests, answered in the shape of OpenAI's API: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from oneclip.errors import OneCLIPError


class RequestError(OneCLIPError):
    """Request that is answered with an error.

    Args:
        status: HTTP status.
        message: what was expected, what was found, and what to do.
        param: the part of the request that is wrong, such as "input[3]".
        code: a short name for programs, such as "invalid_image".
        headers: of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    @property
    def kind(self) -> str:
        """OpenAI's `type` of the error."""
        if self.status == 401:
            return "authentication_error"
        if self.status == 429:
            return "rate_limit_error"
        return "invalid_request_error" if self.status < 500 else "server_error"

    def body(self) -> dict[str, Any]:
        """Return the body of the response."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """Return the response. It is ASCII, so that no character of a request can break it."""
        return Response(json.dumps(self.body()), self.status, self.headers, media_type="application/json")


class ItemError(OneCLIPError):
    """Image or text of a request that cannot be encoded. Routes answer it with 400 and the name of the item.

    Args:
        index: its position among the images, or among the texts, that were given to the embedder.
        error: the reason.
    """

    def __init__(self, index: int, error: Exception) -> None:
        super().__init__(str(error))
        self.index, self.error = index, error


class QueueFullError(RequestError):
    """Request that is refused because too many items wait."""

    def __init__(self, waiting: int) -> None:
        super().__init__(
            429,
            f"the server is busy: {waiting} items wait; try again",
            code="queue_full",
            headers={"Retry-After": "1"},
        )


class NotReadyError(RequestError):
    """Request before the model is loaded, or while the server stops."""

    def __init__(self, message: str, retry_after: int = 2) -> None:
        super().__init__(503, message, code="not_ready", headers={"Retry-After": str(retry_after)})


class DeadlineError(RequestError):
    """Request that was not answered in time."""

    def __init__(self, seconds: float) -> None:
        super().__init__(504, f"no answer within {seconds:g} seconds; try a smaller request", code="timeout")
