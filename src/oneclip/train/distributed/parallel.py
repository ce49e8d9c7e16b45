"""Data-parallel training of the towers: replicated (DDP) or sharded (FSDP2).

Gradients that neither of them averages, such as those of a loss or of the logit scale of a sharded model, are
averaged here.
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
from oneclip.train.forward import TrainingForward


class ParallelTowers:
    """The towers of one rank, and their synchronization with the other ranks.

    Args:
        towers: on their device; "fsdp" changes them in place.
        world: of the training. A single process wraps nothing.
        strategy: "ddp": every rank has all weights; "fsdp": each rank has a shard of weights, gradients and
            optimizer state.

    Attributes:
        module: the module to call for a forward pass.

    Raises:
        ConfigError: if this build of torch cannot shard.
    """

    def __init__(self, towers: TrainingForward, world: World, strategy: str = "ddp") -> None:
        self.towers, self.world = towers, world
        self.is_sharded = strategy == "fsdp" and not world.is_single
        self.module: nn.Module = towers
        self._is_local = False
        if self.is_sharded:
            shard_towers(towers, world)
        elif not world.is_single:
            device = next(towers.parameters()).device
            replicate = nn.parallel.DistributedDataParallel
            newer = "forward_sync_buffers"  # its name since torch 2.13
            known = inspect.signature(replicate).parameters
            options: dict[str, Any] = {newer if newer in known else "broadcast_buffers": False}
            self.module = replicate(
                towers,
                device_ids=[device] if device.type == "cuda" else None,
                gradient_as_bucket_view=True,
                **options,
            )

    @contextlib.contextmanager
    def no_sync(self, is_local: bool = True) -> Iterator[None]:
        """Keep the gradients of backward passes on their rank. The next pass outside this context synchronizes them."""
        if not is_local or self.world.is_single:
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
    def unsharded(self) -> Iterator[None]:
        """Gather all weights, so that the model's own methods can be called, in an evaluation for example."""
        if not self.is_sharded:
            yield
            return
        from torch.distributed.fsdp import FSDPModule

        # gather everything, so that no forward pass communicates: ranks may run different numbers of them
        parts = [part for part in self.towers.modules() if isinstance(part, FSDPModule)]
        for part in parts:
            part.unshard()
        for part in parts[1:]:  # the first one contains the others and stays gathered without this
            part.set_reshard_after_forward(False, recurse=False)
        try:
            yield
        finally:
            for part in parts[1:]:
                part.set_reshard_after_forward(True, recurse=False)
            for part in parts:
                part.reshard()

    def average_unsynced(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average the gradients that DDP or FSDP does not average."""
        if self.world.is_single:
            return
        shared = set() if self.is_sharded else set(self.towers.parameters())
        rest = [p for p in parameters if p not in shared and not is_dtensor(p) and p.requires_grad]
        for parameter in rest:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)
            parameter.grad /= self.world.size


def shard_towers(towers: TrainingForward, world: World) -> None:
    """Shard the blocks of both towers one by one, then the rest. Every rank keeps all scalars.

    Raises:
        ConfigError: if torch is older than 2.7.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if "ignored_params" not in inspect.signature(fully_shard).parameters:
        raise ConfigError(f"strategy=fsdp needs torch 2.7 or newer; found {torch.__version__}")
    mesh = init_device_mesh(next(towers.parameters()).device.type, (world.size,))
    for block in repeated_blocks(towers):
        fully_shard(block, mesh=mesh)
    scalars = {parameter for parameter in towers.parameters() if parameter.ndim == 0}
    fully_shard(towers, mesh=mesh, ignored_params=scalars)


def repeated_blocks(module: nn.Module) -> list[nn.Module]:
    """Return the outermost modules with weights that are members of a `ModuleList` or a `Sequential`."""
    found = []
    for parent in module.modules():
        if isinstance(parent, nn.ModuleList | nn.Sequential) and len(parent) > 1:
            found += [child for child in parent if any(True for _ in child.parameters())]
    inner = {part for block in found for part in list(block.modules())[1:]}
    return [block for block in dict.fromkeys(found) if block not in inner]


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float | None) -> Tensor:
    """Scale all gradients, sharded or not, so that their common norm is at most `limit`.

    Returns:
        The norm before scaling, over all ranks.
    """
    with_grad = [p for p in parameters if p.grad is not None]
    # no operation accepts sharded and plain tensors together
    plain = [p for p in with_grad if not is_dtensor(p)]
    parts = [part for part in (plain, [p for p in with_grad if is_dtensor(p)]) if part]
    norms = [_full(nn.utils.get_total_norm([p.grad for p in part if p.grad is not None])) for part in parts]
    total = torch.stack([norm.float() for norm in norms]).norm() if norms else torch.zeros(())
    if limit is not None and not math.isinf(limit):
        for part in parts:
            nn.utils.clip_grads_with_norm_(part, limit, total)
    return total


def is_dtensor(tensor: Tensor) -> bool:
    """Tell whether a tensor is one rank's shard of a larger one."""
    if not dist.is_available():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def _full(tensor: Any) -> Tensor:
    return tensor.full_tensor() if is_dtensor(tensor) else tensor  # type: ignore[no-any-return]
