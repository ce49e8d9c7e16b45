"""Towers on each rank to towers that learn together: replicated (DDP), or in shards (FSDP2).

What is neither, such as the temperature of a sharded model or the parameters of a loss, is averaged here.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from oneclip.errors import ConfigError
from oneclip.train.distributed.world import World
from oneclip.train.forward import Towers


class Together:
    """The towers of one rank, and how they keep step with those of the others.

    Args:
        towers: on their device; changed in place by "fsdp".
        world: of the training. Alone, nothing is wrapped.
        strategy: "ddp": every rank holds all weights; "fsdp": each a share of weights, gradients and the state of
            the optimizer.

    Attributes:
        module: what is called for a forward pass.

    Raises:
        ConfigError: if this build of torch cannot shard.
    """

    def __init__(self, towers: Towers, world: World, strategy: str = "ddp") -> None:
        self.towers, self.world = towers, world
        self.is_sharded = strategy == "fsdp" and not world.is_alone
        self.module: nn.Module = towers
        self._is_local = False
        if self.is_sharded:
            shard(towers, world)
        elif not world.is_alone:
            device = next(towers.parameters()).device
            replicate = nn.parallel.DistributedDataParallel
            newer = "forward_sync_buffers"  # what torch 2.13 calls it
            known = inspect.signature(replicate).parameters
            options: dict[str, Any] = {newer if newer in known else "broadcast_buffers": False}
            self.module = replicate(
                towers,
                device_ids=[device] if device.type == "cuda" else None,
                gradient_as_bucket_view=True,
                **options,
            )

    @contextlib.contextmanager
    def local(self, is_local: bool = True) -> Iterator[None]:
        """Backward passes whose gradients stay on their rank until one that runs outside adds its own and shares."""
        if not is_local or self.world.is_alone:
            yield
        elif self.is_sharded:
            before, self._is_local = self._is_local, True
            self.towers.set_requires_gradient_sync(False)  # type: ignore[operator]
            try:
                yield
            finally:
                self._is_local = before
                self.towers.set_requires_gradient_sync(not before)  # type: ignore[operator]
        else:
            with self.module.no_sync():  # type: ignore[operator]
                yield

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """A stretch in which the model's own methods may be called, by every rank alike, such as an evaluation."""
        if not self.is_sharded:
            yield
            return
        from torch.distributed.fsdp import FSDPModule

        # all of it, so that no forward pass exchanges anything: ranks may make another number of them
        parts = [part for part in self.towers.modules() if isinstance(part, FSDPModule)]
        for part in parts:
            part.unshard()
        for part in parts[1:]:  # the first one, of which the others are parts, stays whole as it is
            part.set_reshard_after_forward(False, recurse=False)
        try:
            yield
        finally:
            for part in parts[1:]:
                part.set_reshard_after_forward(True, recurse=False)
            for part in parts:
                part.reshard()

    def average_rest(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average over ranks the gradients that nothing else averages."""
        if self.world.is_alone:
            return
        shared = set() if self.is_sharded else set(self.towers.parameters())
        rest = [p for p in parameters if p not in shared and not is_shard(p) and p.requires_grad]
        for parameter in rest:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)
            parameter.grad /= self.world.size


def shard(towers: Towers, world: World) -> None:
    """Shard the blocks of both towers one by one, then the rest; scalars stay whole on every rank.

    Raises:
        ConfigError: if this build of torch cannot.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if "ignored_params" not in inspect.signature(fully_shard).parameters:
        raise ConfigError(f"strategy=fsdp needs torch 2.7 or newer; found {torch.__version__}")
    mesh = init_device_mesh(next(towers.parameters()).device.type, (world.size,))
    for block in blocks(towers):
        fully_shard(block, mesh=mesh)
    scalars = {parameter for parameter in towers.parameters() if parameter.ndim == 0}
    fully_shard(towers, mesh=mesh, ignored_params=scalars)


def blocks(module: nn.Module) -> list[nn.Module]:
    """The repeated parts: members of lists and sequences that hold weights, and no other such part."""
    found = []
    for parent in module.modules():
        if isinstance(parent, nn.ModuleList | nn.Sequential) and len(parent) > 1:
            found += [child for child in parent if any(True for _ in child.parameters())]
    inner = {part for block in found for part in list(block.modules())[1:]}
    return [block for block in dict.fromkeys(found) if block not in inner]


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float | None) -> Tensor:
    """Scale all gradients down to a common norm, whether they lie here or in shards.

    Returns:
        The norm that they had, over all ranks.
    """
    with_grad = [p for p in parameters if p.grad is not None]
    parts = [part for part in _alike(with_grad) if part]
    norms = [_whole(nn.utils.get_total_norm([p.grad for p in part if p.grad is not None])) for part in parts]
    total = torch.stack([norm.float() for norm in norms]).norm() if norms else torch.zeros(())
    if limit is not None and not math.isinf(limit):
        for part in parts:
            nn.utils.clip_grads_with_norm_(part, limit, total)
    return total


def is_shard(tensor: Tensor) -> bool:
    """Whether a tensor is one rank's share of a larger one."""
    if not dist.is_available():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def _alike(parameters: list[nn.Parameter]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Whole ones and shards: no operation takes both."""
    return [p for p in parameters if not is_shard(p)], [p for p in parameters if is_shard(p)]


def _whole(tensor: Any) -> Tensor:
    return tensor.full_tensor() if is_shard(tensor) else tensor  # type: ignore[no-any-return]
