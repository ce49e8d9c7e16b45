"""Cache of captured graphs, one for each input shape of a computation.

How a graph is captured and replayed is up to the `Capture` function: on a GPU it is a CUDA graph, see `cuda_graphs`.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from oneclip.engine.graph_shapes import GraphShapes, Shape, TextShapes

Compute = Callable[[Tensor], Tensor]
MAX_GRAPHS = 32  # of one plan at a time; each keeps some memory


class Replay(Protocol):
    """A captured computation of one shape."""

    def __call__(self, fill: Callable[[Tensor], None], rows: int) -> Tensor:
        """Call `fill` on the input buffer, compute, and return a copy of the first `rows` rows of the features."""


Capture = Callable[[Compute, Shape, torch.dtype], Replay]


class GraphCache:
    """A computation that replays graphs where it can, and runs normally elsewhere.

    Graphs share their memory, so only one is replayed at a time, whatever the thread. If memory runs out, or if a
    capture fails, all graphs are dropped: the numbers are the same without them.

    Args:
        compute: a batch to features (B, D); rows do not depend on each other.
        shapes: which shapes get a graph.
        capture: captures one graph.
    """

    def __init__(self, compute: Compute, shapes: GraphShapes, capture: Capture) -> None:
        self.compute, self._shapes = compute, shapes
        self._capture: Capture | None = capture
        self._replays: OrderedDict[tuple[Shape, torch.dtype], Replay] = OrderedDict()
        self._lock = threading.Lock()
        self.remark = ""  # why graphs are no longer used

    def __call__(self, batch: Tensor) -> Tensor:
        shape = self._shapes.bucket(tuple(batch.shape)) if self._capture is not None else None
        if shape is not None:
            features = self._replay(batch, shape)
            if features is not None:
                return features
        try:
            return self.compute(batch)
        except torch.OutOfMemoryError:
            if not self._replays:
                raise
        self._disable("out of memory")  # outside of `except`, where the error keeps its tensors alive
        return self.compute(batch)

    def _replay(self, batch: Tensor, shape: Shape) -> Tensor | None:
        """Compute features with a graph; None if there is no graph and none can be captured."""
        try:
            with self._lock:
                replay = self._get(shape, batch.dtype)
                return (
                    None if replay is None else replay(lambda buffer: self._fill(buffer, batch), len(batch))
                )
        except torch.OutOfMemoryError:
            reason = "out of memory"
        except CaptureError as error:
            reason = str(error)
        self._disable(reason)
        return None

    def _get(self, shape: Shape, dtype: torch.dtype) -> Replay | None:
        replay = self._replays.get((shape, dtype))
        if replay is None:
            if self._capture is None:  # disabled while this thread waited for the lock
                return None
            replay = self._capture(self.compute, shape, dtype)
            self._replays[shape, dtype] = replay
            while len(self._replays) > MAX_GRAPHS:
                self._replays.popitem(last=False)
        self._replays.move_to_end((shape, dtype))
        return replay

    def _fill(self, buffer: Tensor, batch: Tensor) -> None:
        """Write a batch into the input buffer of a graph; later rows keep old values, and their output is not used."""
        rows = buffer[: len(batch)]
        if isinstance(self._shapes, TextShapes):
            length = batch.shape[1]
            if self._shapes.pad is not None:
                rows[:, length:] = self._shapes.pad
            rows = rows[:, :length]
        rows.copy_(batch)

    def _disable(self, reason: str) -> None:
        with self._lock:
            self._capture = None
            self._replays.clear()
            self.remark = f"; CUDA graphs are off: {reason}"


class CaptureError(Exception):
    """The reason why a computation cannot be captured; it is caught inside the engine."""
