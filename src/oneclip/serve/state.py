"""State of a server process, and the dependencies by which routes reach it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, cast

from fastapi import Depends, Request

from oneclip.serve.api_keys import ApiKeys
from oneclip.serve.errors import NotReadyError
from oneclip.serve.metrics import Metrics
from oneclip.serve.settings import ServeSettings

if TYPE_CHECKING:
    from oneclip.serve.embedder import Embedder
    from oneclip.serve.indexes import ServedIndexes


@dataclass
class ServerState:
    """State of a server process.

    Attributes:
        settings: of the server.
        keys: that clients need; None if they need none.
        metrics: of this process.
        embedder: None while the model is loaded.
        indexes: those that are searched; None while the model is loaded.
        is_draining: whether the server stops: what was accepted is answered, and nothing new.
        failure: why the server cannot go on.
    """

    settings: ServeSettings
    keys: ApiKeys | None = None
    metrics: Metrics = field(default_factory=Metrics)
    embedder: Embedder | None = None
    indexes: ServedIndexes | None = None
    is_draining: bool = False
    failure: BaseException | None = None

    @property
    def is_ready(self) -> bool:
        """Whether the model is loaded, and the first update of new indexes is done."""
        return self.embedder is not None and self.indexes is not None and self.indexes.is_ready


async def server_state(request: Request) -> ServerState:
    """Return the state of the server; `async`, because FastAPI calls other dependencies in a thread."""
    return cast(ServerState, request.app.state.server)


State = Annotated[ServerState, Depends(server_state)]
"""Dependency of a route that needs the state of the server."""


async def ready_embedder(state: State) -> Embedder:
    """Return the embedder.

    Raises:
        NotReadyError: while the model is loaded.
    """
    if state.embedder is None:
        raise NotReadyError("the model is being loaded; try again")
    return state.embedder
