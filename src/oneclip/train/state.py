"""All that a training needs to go on as if it had never stopped: to a checkpoint and back, on any number of processes.

Tensors go by names, those of the optimizer too: which process holds which share of them is not in a checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)

from oneclip.checkpoint import load_into
from oneclip.checkpoint.read import METADATA_KEY
from oneclip.errors import CheckpointMismatchError, ConfigError
from oneclip.train.checkpoints import (
    prune,
    random_states,
    read_checkpoint,
    read_facts,
    restore_random_states,
    write_checkpoint,
)
from oneclip.train.distributed import World
from oneclip.train.parallel import is_shard
from oneclip.train.shards import ShardWriter, read_shards

TENSORS = ("state_dict", "loss_state_dict", "optimizer", "ema")


class State:
    """The tensors of a training, and where they are written.

    Args:
        model: whose weights are trained.
        loss_fn: whose parameters are trained along.
        optimizer: of both.
        world: of the training. One process writes a file, several a folder to which each writes its share.
        keep: checkpoints that stay; 0 for all.
    """

    def __init__(
        self, model: nn.Module, loss_fn: nn.Module, optimizer: torch.optim.Optimizer, world: World, keep: int
    ) -> None:
        self._trained = nn.ModuleDict({"model": model, "loss_fn": loss_fn})
        self._optimizer, self._world, self._keep = optimizer, world, keep
        self._writer = None if world.is_alone else ShardWriter(world, keep)

    def tensors(self) -> dict[str, Any]:
        """Weights, parameters of the loss, and the state of the optimizer."""
        both, optimizer = get_state_dict(self._trained, self._optimizer)
        of = {name: _under(both, f"{name}.") for name in ("model", "loss_fn")}
        return {"state_dict": of["model"], "loss_state_dict": of["loss_fn"], "optimizer": optimizer}

    def write(self, path: Path, tensors: Mapping[str, Any], facts: Mapping[str, Any]) -> Path:
        """Write a checkpoint, several processes in the background.

        Args:
            path: its place, without a suffix.
            tensors: those of `tensors`, and others of the same kinds.
            facts: plain values that JSON can hold.

        Returns:
            Where it is, or will be once `finish` returns.
        """
        if self._writer is not None:
            self._writer.write(path, tensors, facts)
            return path
        file = path.with_suffix(".pt")
        description = {METADATA_KEY: facts.get("description", {})}
        write_checkpoint(file, {**tensors, **facts, "random": random_states(), **description})
        prune(file.parent, self._keep)
        return file

    def finish(self) -> None:
        """Wait for what is written in the background."""
        if self._writer is not None:
            self._writer.finish()

    def facts(self, path: Path) -> dict[str, Any]:
        """What a checkpoint says beside its tensors."""
        return read_facts(path) if path.is_dir() else read_checkpoint(path, mmap=True)

    def read(self, path: Path, also: Mapping[str, Any]) -> None:
        """Bring weights and optimizer, and the tensors of `also` in place, back to a checkpoint.

        Raises:
            CheckpointError: if it is damaged, or of another model.
            ConfigError: if other parameters were trained.
        """
        if path.is_dir():
            state = self.tensors()
            state |= also
            read_shards(path, state)
            self._set(path, state, is_full=False)
            return
        file = read_checkpoint(path)
        self._require_fit(path, file)
        if any(is_shard(parameter) for parameter in self._trained.parameters()):
            self._set(path, file, is_full=True)
        else:
            load_into(self._trained["model"], file["state_dict"], source=str(path))
            load_into(self._trained["loss_fn"], file["loss_state_dict"], source=f"the loss in {path}")
            self._set_optimizer(path, file["optimizer"])
        for name, tensors in also.items():
            load_by_name(tensors, file.get(name, {}))
        if self._world.is_alone:
            restore_random_states(file["random"])

    def _require_fit(self, path: Path, file: Mapping[str, Any]) -> None:
        """Raise CheckpointMismatchError unless the weights in a file are those of the model, in their shapes."""
        own, given = _under(self._trained.state_dict(), "model."), file["state_dict"]
        missing, unexpected = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
        both = [(name, tuple(given[name].shape), tuple(own[name].shape)) for name in own if name in given]
        reshaped = [(name, theirs, ours) for name, theirs, ours in both if theirs != ours]
        if missing or unexpected or reshaped:
            raise CheckpointMismatchError(str(path), missing, unexpected, reshaped)

    def _set(self, path: Path, state: Mapping[str, Any], *, is_full: bool) -> None:
        weights = {f"model.{name}": tensor for name, tensor in state["state_dict"].items()}
        weights |= {f"loss_fn.{name}": tensor for name, tensor in state["loss_state_dict"].items()}
        try:
            set_state_dict(
                self._trained,
                self._optimizer,
                model_state_dict=weights,
                optim_state_dict=state["optimizer"],
                options=StateDictOptions(full_state_dict=is_full),
            )
        except (KeyError, RuntimeError, ValueError) as error:
            raise ConfigError(
                f"{path} was written while other parameters were trainable ({error})"
            ) from error

    def _set_optimizer(self, path: Path, state: Mapping[str, Any]) -> None:
        try:
            set_optimizer_state_dict(
                self._trained, self._optimizer, dict(state), options=StateDictOptions(full_state_dict=True)
            )
        except (KeyError, RuntimeError, ValueError) as error:
            raise ConfigError(
                f"{path} was written while other parameters were trainable ({error})"
            ) from error


def load_by_name(into: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Copy tensors by name, whole ones into shards, too; those that are not given stay."""
    from torch.distributed.tensor import distribute_tensor

    with torch.no_grad():
        for name, target in into.items():
            if name not in given:
                continue
            if is_shard(target):
                shard: Any = target
                target.copy_(
                    distribute_tensor(given[name].to(target.dtype), shard.device_mesh, shard.placements)
                )
            else:
                target.copy_(given[name])


def _under(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
