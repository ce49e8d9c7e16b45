"""Choose the number and size of the workers of a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from oneclip.errors import ClusterError, ConfigError

MAX_CPUS_PER_WORKER = 4  # a model gains little from more; another worker gains more


@dataclass(frozen=True)
class WorkerPool:
    """Number and size of identical workers.

    Attributes:
        workers: number of workers.
        cpus: processors of each; also its number of computing and decoding threads.
        gpus: GPUs of each, 0 or 1.
    """

    workers: int
    cpus: int
    gpus: int = 0

    def __str__(self) -> str:
        each = "a GPU" if self.gpus else f"{self.cpus} processor{'s' * (self.cpus > 1)}"
        return f"{self.workers} worker{'s' * (self.workers > 1)}, {each} each"

    @property
    def device(self) -> str:
        """Device of a worker."""
        return "cuda" if self.gpus else "cpu"

    @property
    def threads(self) -> int:
        """Number of threads of a worker."""
        return max(1, self.cpus)


def plan_workers(nodes: Sequence[Mapping[str, float]], workers: int | None, device: str | None) -> WorkerPool:
    """Divide the resources of a cluster among workers.

    Args:
        nodes: "CPU" and "GPU" of each node.
        workers: number of workers; by default as many as fit. If more are requested, they start when there is room, as
            in a cluster that grows.
        device: "cpu" or "cuda"; by default GPUs if there are any.

    Raises:
        ConfigError: if GPUs are requested and there are none, or for another device.
        ClusterError: if the cluster has no processor.
    """
    kind = (device or "").partition(":")[0]
    if kind not in ("", "cpu", "cuda"):
        raise ConfigError(f"unknown device {device!r} for the workers of a cluster; available: cpu, cuda")
    rooms = [(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in nodes]
    with_gpus = [(cpus, gpus) for cpus, gpus in rooms if gpus]
    if kind == "cuda" and not with_gpus:
        raise ConfigError("the cluster has no GPU; use --device cpu, or leave --device out")
    if with_gpus and kind != "cpu":
        room = sum(gpus for _, gpus in with_gpus)
        share = min(cpus // gpus for cpus, gpus in with_gpus)
        return WorkerPool(workers or room, min(MAX_CPUS_PER_WORKER, share), 1)
    cpus = [cpus for cpus, _ in rooms if cpus]
    if not cpus:
        raise ClusterError("the cluster has no processor")
    for share in range(min(MAX_CPUS_PER_WORKER, *cpus), 0, -1):
        room = sum(count // share for count in cpus)
        if workers is None or room >= workers:
            return WorkerPool(workers or room, share)
    return WorkerPool(workers or 1, 1)
