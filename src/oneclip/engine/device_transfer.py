"""Copy batches to the device and features back while the device computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class DeviceTransfer:
    """Copies between the CPU's memory and one device.

    For a GPU, copies go through pinned memory, with one stream for each direction: the next batch arrives and the last
    features leave while the GPU computes. On a CPU nothing is copied.

    Args:
        device: where the model is.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.overlaps = device.type == "cuda"
        if self.overlaps:
            stream: Callable[[torch.device], torch.cuda.Stream] = torch.cuda.Stream
            self._to_device, self._to_host = stream(device), stream(device)

    @property
    def depth(self) -> int:
        """Number of batches to start before the first result is fetched."""
        return 1 if self.overlaps else 0

    def stack(self, rows: Sequence[Tensor]) -> Tensor:
        """Stack CPU tensors of one shape and dtype into a batch (B, ...) on the device."""
        if not self.overlaps:
            return torch.stack(list(rows)).to(self.device)
        shape = (len(rows), *rows[0].shape)
        # torch does not reuse this memory before the copy has finished
        batch = torch.stack(list(rows), out=torch.empty(shape, dtype=rows[0].dtype, pin_memory=True))
        with torch.cuda.stream(self._to_device):
            on_device = batch.to(self.device, non_blocking=True)
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self._to_device)
        on_device.record_stream(current)  # keeps its memory until the batch was computed
        return on_device

    def fetch(self, features: Tensor) -> Callable[[], Tensor]:
        """Start a copy of features to the CPU's memory; the returned function waits for it."""
        if not self.overlaps or features.device.type != "cuda":
            return features.cpu
        host = torch.empty(features.shape, dtype=features.dtype, pin_memory=True)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._to_host.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._to_host):
            host.copy_(features, non_blocking=True)
            copied.record(self._to_host)
        features.record_stream(self._to_host)

        def wait() -> Tensor:
            copied.synchronize()
            return host.clone()  # pinned memory is scarce, so the result is ordinary memory

        return wait
