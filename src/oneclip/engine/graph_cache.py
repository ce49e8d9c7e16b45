"""A computation to the same, recorded once for each of a few shapes and replayed from then on.

What a recording is, is the recorder's: on a GPU a CUDA graph, see `cuda_graphs`.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from oneclip.engine.graph_shapes import Buckets, Captions, Shape

Compute = Callable[[Tensor], Tensor]
MOST = 32  # recordings of one plan at a time; each keeps some memory


class Replay(Protocol):
    """A computation of one shape."""

    def __call__(self, fill: Callable[[Tensor], None], rows: int) -> Tensor:
        """Let `fill` write the batch into the input, compute, and give the first rows of the features, copied."""


Record = Callable[[Compute, Shape, torch.dtype], Replay]


class Recorded:
    """A plan's computation by recordings, and as it is where there is none.

    Recordings share their memory, so that one is replayed after the other, whatever the thread. Where memory is lacking
    all are given up, and where recording itself fails, too: the numbers are the same without.

    Args:
        compute: a batch to features (B, D); rows do not depend on each other.
        buckets: which shapes are recorded.
        record: makes a recording.
    """

    def __init__(self, compute: Compute, buckets: Buckets, record: Record) -> None:
        self.compute, self._buckets = compute, buckets
        self._record: Record | None = record
        self._replays: OrderedDict[tuple[Shape, torch.dtype], Replay] = OrderedDict()
        self._lock = threading.Lock()
        self.remark = ""  # why nothing is recorded any more

    def __call__(self, batch: Tensor) -> Tensor:
        shape = self._buckets.bucket(tuple(batch.shape)) if self._record is not None else None
        if shape is not None:
            features = self._replayed(batch, shape)
            if features is not None:
                return features
        try:
            return self.compute(batch)
        except torch.OutOfMemoryError:
            if not self._replays:
                raise
        self._give_up("the memory is full")  # out here, where the error no longer holds what was computed
        return self.compute(batch)

    def _replayed(self, batch: Tensor, shape: Shape) -> Tensor | None:
        """Features by a recording; None if there is no way to one."""
        try:
            with self._lock:
                replay = self._replay(shape, batch.dtype)
                return None if replay is None else replay(lambda whole: self._fill(whole, batch), len(batch))
        except torch.OutOfMemoryError:
            why = "the memory is full"
        except NotRecorded as error:
            why = str(error)
        self._give_up(why)
        return None

    def _replay(self, shape: Shape, dtype: torch.dtype) -> Replay | None:
        replay = self._replays.get((shape, dtype))
        if replay is None:
            if self._record is None:  # given up while this thread waited
                return None
            replay = self._record(self.compute, shape, dtype)
            self._replays[shape, dtype] = replay
            while len(self._replays) > MOST:
                self._replays.popitem(last=False)
        self._replays.move_to_end((shape, dtype))
        return replay

    def _fill(self, whole: Tensor, batch: Tensor) -> None:
        """Write a batch into the input of a recording; rows behind it stay what they were, and nobody asks for them."""
        rows = whole[: len(batch)]
        if isinstance(self._buckets, Captions):
            length = batch.shape[1]
            if self._buckets.pad is not None:
                rows[:, length:] = self._buckets.pad
            rows = rows[:, :length]
        rows.copy_(batch)

    def _give_up(self, why: str) -> None:
        with self._lock:
            self._record = None
            self._replays.clear()
            self.remark = f"; nothing is recorded: {why}"


class NotRecorded(Exception):
    """A computation that cannot be recorded, and why; it never leaves the engine."""
