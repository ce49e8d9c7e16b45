"""Capture and replay of CUDA graphs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from oneclip.engine.graph_cache import CaptureError, Compute, Replay

WARM_UP_RUNS = 2  # in the first, libraries choose their kernels and allocate their workspaces
_CAPTURE_LOCK = threading.Lock()  # torch captures one graph at a time in a process


class CudaGraphCapture:
    """Captures the graphs of one plan.

    All graphs share one memory pool, and one stream for capture, because the workspace of matrix products belongs to a
    stream. So one replay must end before the next begins, on whatever streams they run; an event ensures that.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        with torch.cuda.device(device):
            self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            self.pool = torch.cuda.graph_pool_handle()
            self.done = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def __call__(self, compute: Compute, shape: tuple[int, ...], dtype: torch.dtype) -> Replay:
        """Capture a computation for one input shape.

        Raises:
            OutOfMemoryError: if it does not fit into the memory.
            CaptureError: if one of its steps cannot be captured.
        """
        # the buffer is an ordinary tensor, which can be written to inside and outside of inference mode
        with torch.cuda.device(self.device), torch.inference_mode(False), torch.no_grad(), _CAPTURE_LOCK:
            batch = torch.zeros(shape, dtype=dtype, device=self.device)
            caller = torch.cuda.current_stream()
            self.stream.wait_stream(caller)
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.stream(self.stream):  # also restores the stream if the capture fails
                    for _ in range(WARM_UP_RUNS):
                        compute(batch)
                    # "thread_local": other threads may allocate memory meanwhile
                    with torch.cuda.graph(
                        graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"
                    ):
                        features = compute(batch)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                raise CaptureError(str(error).partition("\n")[0]) from error
            caller.wait_stream(self.stream)
        return _CudaGraph(self, graph, batch, features)


@dataclass(frozen=True)
class _CudaGraph:
    """A captured graph with its input and output buffers."""

    owner: CudaGraphCapture
    graph: torch.cuda.CUDAGraph
    batch: Tensor
    features: Tensor

    def __call__(self, fill: Callable[[Tensor], None], rows: int) -> Tensor:
        with torch.cuda.device(self.owner.device):
            stream = torch.cuda.current_stream()
            stream.wait_event(self.owner.done)  # returns at once before the first replay
            self.batch.record_stream(stream)  # keeps its memory until the replay has ended
            try:
                fill(self.batch)
                self.graph.replay()
                return self.features[:rows].clone()
            finally:
                self.owner.done.record(stream)
