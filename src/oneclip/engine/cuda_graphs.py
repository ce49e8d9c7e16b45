"""A computation on a GPU to its CUDA graph: all its steps, started at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from oneclip.engine.graph_cache import Compute, NotRecorded, Replay

WARM_UPS = 2  # in the first, libraries choose their kernels and take their workspaces
_ONE_AT_A_TIME = threading.Lock()  # torch captures one graph in a process


class CudaGraphs:
    """Makes the recordings of one plan.

    All have one pool of memory, and one stream that they are captured on, for the workspace that matrix products take
    belongs to a stream. One must therefore end before the next begins, on whatever stream they are replayed: an event
    sees to that.

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
        """Capture a computation of one shape.

        Raises:
            OutOfMemoryError: if it does not fit.
            NotRecorded: if it has a step that cannot be captured.
        """
        # the input is an ordinary tensor, which may be written to in inference mode and outside of it
        with torch.cuda.device(self.device), torch.inference_mode(False), torch.no_grad(), _ONE_AT_A_TIME:
            batch = torch.zeros(shape, dtype=dtype, device=self.device)
            caller = torch.cuda.current_stream()
            self.stream.wait_stream(caller)
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.stream(self.stream):  # also left where capturing ends in an error
                    for _ in range(WARM_UPS):
                        compute(batch)
                    # only what this thread does is held to the rules of capturing: others may allocate
                    with torch.cuda.graph(
                        graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"
                    ):
                        features = compute(batch)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                raise NotRecorded(str(error).partition("\n")[0]) from error
            caller.wait_stream(self.stream)
        return _CudaGraph(self, graph, batch, features)


@dataclass(frozen=True)
class _CudaGraph:
    graphs: CudaGraphs
    graph: torch.cuda.CUDAGraph
    batch: Tensor
    features: Tensor

    def __call__(self, fill: Callable[[Tensor], None], rows: int) -> Tensor:
        with torch.cuda.device(self.graphs.device):
            stream = torch.cuda.current_stream()
            stream.wait_event(self.graphs.done)  # which nothing waits for before it was first recorded
            self.batch.record_stream(stream)  # its memory is not to be had before this is done
            try:
                fill(self.batch)
                self.graph.replay()
                return self.features[:rows].clone()
            finally:
                self.graphs.done.record(stream)
