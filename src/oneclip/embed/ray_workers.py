"""What the machines of a cluster have to how many workers it gets, and what each of them takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from oneclip.errors import ClusterError, ConfigError

MOST_CPUS = 4  # of a worker: towers gain little from more, and another worker gains more


@dataclass(frozen=True)
class Pool:
    """Workers that are all the same.

    Attributes:
        workers: how many.
        cpus: of each, also how many threads it computes and decodes with.
        gpus: of each, 0 or 1.
    """

    workers: int
    cpus: int
    gpus: int = 0

    def __str__(self) -> str:
        each = "a GPU" if self.gpus else f"{self.cpus} processor{'s' * (self.cpus > 1)}"
        return f"{self.workers} worker{'s' * (self.workers > 1)}, {each} each"

    @property
    def device(self) -> str:
        """What a worker computes on."""
        return "cuda" if self.gpus else "cpu"

    @property
    def threads(self) -> int:
        """That a worker may use."""
        return max(1, self.cpus)


def plan_pool(nodes: Sequence[Mapping[str, float]], workers: int | None, device: str | None) -> Pool:
    """Share out what there is.

    Args:
        nodes: the "CPU" and "GPU" of each.
        workers: how many there are to be; by default as many as there is room for. More than that begin when
            there is room, as in a cluster that grows.
        device: "cpu" or "cuda"; by default GPUs if there are any.

    Raises:
        ConfigError: if GPUs are wanted and there are none, or for another device.
        ClusterError: if there is not even a processor.
    """
    kind = (device or "").partition(":")[0]
    if kind not in ("", "cpu", "cuda"):
        raise ConfigError(f"workers of a cluster compute on cpu or cuda, not on {device!r}")
    rooms = [(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in nodes]
    with_gpus = [(cpus, gpus) for cpus, gpus in rooms if gpus]
    if kind == "cuda" and not with_gpus:
        raise ConfigError("the cluster has no GPU; --device cpu, or none, takes its processors")
    if with_gpus and kind != "cpu":
        room = sum(gpus for _, gpus in with_gpus)
        share = min(cpus // gpus for cpus, gpus in with_gpus)
        return Pool(workers or room, min(MOST_CPUS, share), 1)
    cpus = [cpus for cpus, _ in rooms if cpus]
    if not cpus:
        raise ClusterError("the cluster has no processor to give")
    for share in range(min(MOST_CPUS, *cpus), 0, -1):
        room = sum(count // share for count in cpus)
        if workers is None or room >= workers:
            return Pool(workers or room, share)
    return Pool(workers or 1, 1)
