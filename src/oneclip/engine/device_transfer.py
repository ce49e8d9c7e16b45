"""Batches to the device and features back, while it computes; on a CPU they are there already.

Shapes: B batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Transfer:
    """The way to a device and back.

    To a GPU and from it memory that stays in its place ("pinned") is copied, on a stream for each direction: the next
    batch arrives and the last one's features leave while the GPU computes.

    Args:
        device: where it is computed.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.overlaps = device.type == "cuda"
        if self.overlaps:
            stream: Callable[[torch.device], torch.cuda.Stream] = torch.cuda.Stream
            self._up, self._down = stream(device), stream(device)

    @property
    def ahead(self) -> int:
        """How many batches should be begun before the first is fetched."""
        return 1 if self.overlaps else 0

    def stack(self, rows: Sequence[Tensor]) -> Tensor:
        """Rows of one shape and precision, in the CPU's memory, to a batch (B, ...) on the device."""
        if not self.overlaps:
            return torch.stack(list(rows)).to(self.device)
        shape = (len(rows), *rows[0].shape)
        # torch uses this memory again only when what was begun to be copied has been
        batch = torch.stack(list(rows), out=torch.empty(shape, dtype=rows[0].dtype, pin_memory=True))
        with torch.cuda.stream(self._up):
            there = batch.to(self.device, non_blocking=True)
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self._up)
        there.record_stream(current)  # so that no other batch takes its place before it was computed
        return there

    def fetch(self, features: Tensor) -> Callable[[], Tensor]:
        """Begin to copy features to the CPU's memory; what is given waits for them."""
        if not self.overlaps or features.device.type != "cuda":
            return features.cpu
        here = torch.empty(features.shape, dtype=features.dtype, pin_memory=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._down.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._down):
            here.copy_(features, non_blocking=True)
            arrived.record(self._down)
        features.record_stream(self._down)

        def wait() -> Tensor:
            arrived.synchronize()
            return here.clone()  # pinned memory is scarce: what is kept is ordinary

        return wait
