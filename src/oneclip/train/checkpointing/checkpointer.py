"""Checkpointer: save and restore the complete state of a training, on any number of processes.

Tensors are stored by name, including those of the optimizer. How they were sharded is not part of a checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
from oneclip.checkpoint.readers.dcp import DistributedCheckpoint
from oneclip.checkpoint.readers.read import METADATA_KEY
from oneclip.errors import ConfigError
from oneclip.train.checkpointing.checkpoint import (
    clean_interrupted,
    prune,
    random_states,
    read_checkpoint,
    read_metadata,
    require_same_shapes,
    restore_random_states,
    write_checkpoint,
)
from oneclip.train.checkpointing.dcp import AsyncCheckpointWriter, load_sharded, require_same_names
from oneclip.train.distributed.parallel import is_dtensor
from oneclip.train.distributed.world import World


class Checkpointer:
    """Saves and restores model, loss and optimizer.

    Args:
        model: the trained model.
        loss_fn: the loss, whose parameters are trained as well.
        optimizer: of both.
        world: of the training. A single process writes a file; several write a folder with a shard each.
        keep: number of checkpoints to keep; 0 keeps all.
    """

    def __init__(
        self, model: nn.Module, loss_fn: nn.Module, optimizer: torch.optim.Optimizer, world: World, keep: int
    ) -> None:
        self._trained = nn.ModuleDict({"model": model, "loss_fn": loss_fn})
        self._optimizer, self._world, self._keep = optimizer, world, keep
        self._writer = None if world.is_single else AsyncCheckpointWriter(world, keep)

    def tensors(self) -> dict[str, Any]:
        """Return the weights, the parameters of the loss, and the state of the optimizer."""
        weights, optimizer = get_state_dict(self._trained, self._optimizer)
        # without the parameter groups, which depend on the configuration and on the sharding
        return {
            "state_dict": _with_prefix(weights, "model."),
            "loss_state_dict": _with_prefix(weights, "loss_fn."),
            "optimizer": {"state": optimizer["state"]},
        }

    def write(self, path: Path, tensors: Mapping[str, Any], metadata: Mapping[str, Any]) -> Path:
        """Write a checkpoint; several processes write in the background.

        Args:
            path: without a suffix.
            tensors: those of `tensors()`, and others such as "ema".
            metadata: plain values that JSON can store.

        Returns:
            The path of the checkpoint, which is complete once `finish` returns.
        """
        if self._writer is not None:
            self._writer.write(path, tensors, metadata)
            return path
        file = path.with_suffix(".pt")
        description = {METADATA_KEY: metadata.get("description", {})}
        clean_interrupted(file.parent)
        write_checkpoint(file, {**tensors, **metadata, "random": random_states(), **description})
        prune(file.parent, self._keep)
        return file

    @property
    def has_failed(self) -> bool:
        """True if the background write has failed on this rank; `finish` then raises on all ranks."""
        return self._writer is not None and self._writer.has_failed

    def finish(self) -> None:
        """Wait for the background write.

        Raises:
            OutputError: on all ranks, if the checkpoint could not be written.
        """
        if self._writer is not None:
            self._writer.finish()

    def metadata(self, path: Path) -> dict[str, Any]:
        """Read everything except the tensors from a checkpoint."""
        return read_metadata(path) if path.is_dir() else read_checkpoint(path, values=False)

    def read(self, path: Path, also: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Restore weights and optimizer from a checkpoint, and load the tensors of `also` in place.

        Args:
            path: a file or a folder.
            also: more tensors by name, grouped by their part of the checkpoint, such as "ema". Those that the
                checkpoint does not contain stay unchanged.

        Raises:
            CheckpointMismatchError: if the checkpoint belongs to another model.
            CheckpointError: if it is damaged.
            ConfigError: if other parameters were trained.
        """
        if path.is_dir():
            self._read_folder(path, also)
        else:
            self._read_file(path, also)

    def _read_folder(self, path: Path, also: Mapping[str, Mapping[str, Tensor]]) -> None:
        table, state = DistributedCheckpoint(path), self.tensors()
        for part in ("state_dict", "loss_state_dict"):
            require_same_names(table, part, state[part])
        require_same_trained(path, table.tensors_in("optimizer.state"), _optimizer_names(state["optimizer"]))
        for part, tensors in also.items():
            stored = table.tensors_in(part)
            state[part] = {name: tensor for name, tensor in tensors.items() if name in stored}
            require_same_shapes(
                f"{part} in {path}",
                {name: stored[name].shape for name in state[part]},
                {name: tuple(tensor.shape) for name, tensor in state[part].items()},
            )
        load_sharded(table, state)
        self._set(path, state, is_full=False)

    def _read_file(self, path: Path, also: Mapping[str, Mapping[str, Tensor]]) -> None:
        file = read_checkpoint(path)
        for part, module in (("state_dict", "model"), ("loss_state_dict", "loss_fn")):
            own = _with_prefix(self._trained.state_dict(), f"{module}.")
            require_same_shapes(
                str(path), *({k: tuple(v.shape) for k, v in s.items()} for s in (file.get(part, {}), own))
            )
        _, optimizer = get_state_dict(self._trained, self._optimizer)
        require_same_trained(path, _optimizer_names(file["optimizer"]), _optimizer_names(optimizer))
        if any(is_dtensor(parameter) for parameter in self._trained.parameters()):
            self._set(path, file, is_full=True)
        else:
            load_into(self._trained["model"], file["state_dict"], source=str(path))
            load_into(self._trained["loss_fn"], file.get("loss_state_dict", {}), source=f"the loss in {path}")
            self._set_optimizer(path, file["optimizer"])
        for name, tensors in also.items():
            stored = {key: value for key, value in file.get(name, {}).items() if key in tensors}
            require_same_shapes(
                f"{name} in {path}",
                {key: tuple(value.shape) for key, value in stored.items()},
                {key: tuple(tensors[key].shape) for key in stored},
            )
            copy_tensors(tensors, stored)
        if self._world.is_single:
            restore_random_states(file["random"])

    def _set(self, path: Path, state: Mapping[str, Any], *, is_full: bool) -> None:
        weights = {f"model.{name}": tensor for name, tensor in state["state_dict"].items()}
        weights |= {f"loss_fn.{name}": tensor for name, tensor in state.get("loss_state_dict", {}).items()}
        try:
            set_state_dict(
                self._trained,
                self._optimizer,
                model_state_dict=weights,
                optim_state_dict=self._in_groups(state["optimizer"]),
                options=StateDictOptions(full_state_dict=is_full),
            )
        except (AssertionError, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise _other_parameters_error(path, error) from error

    def _set_optimizer(self, path: Path, state: Mapping[str, Any]) -> None:
        try:
            set_optimizer_state_dict(
                self._trained,
                self._optimizer,
                self._in_groups(state),
                options=StateDictOptions(full_state_dict=True),
            )
        except (AssertionError, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise _other_parameters_error(path, error) from error

    def _in_groups(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Combine a stored optimizer state with the parameter groups of this optimizer."""
        _, own = get_state_dict(self._trained, self._optimizer)
        return {"state": state.get("state", {}), "param_groups": own["param_groups"]}


def _other_parameters_error(path: Path, reason: object) -> ConfigError:
    return ConfigError(
        f"{path} was written while other parameters were trained: {reason}. Use the same settings, or start a new "
        "training from its weights"
    )


def require_same_trained(path: Path, stored: Iterable[str], own: Iterable[str]) -> None:
    """Raise ConfigError unless two optimizers have the same tensors, named `PARAMETER.KIND`."""
    differing = sorted({name.rpartition(".")[0] for name in set(stored) ^ set(own)})
    if differing:
        others = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
        raise _other_parameters_error(path, f"{differing[0]}{others} in only one of the two trainings")


def copy_tensors(into: Mapping[str, Tensor], source: Mapping[str, Tensor]) -> None:
    """Copy tensors by name, in place, also full tensors into shards. Targets that `source` lacks stay unchanged."""
    from torch.distributed.tensor import distribute_tensor

    with torch.no_grad():
        for name, target in into.items():
            if name not in source:
                continue
            if is_dtensor(target):
                shard: Any = target
                target.copy_(
                    distribute_tensor(source[name].to(target.dtype), shard.device_mesh, shard.placements)
                )
            else:
                target.copy_(source[name])


def _optimizer_names(optimizer: Mapping[str, Any]) -> set[str]:
    """Return the names of the tensors in an optimizer state, as `PARAMETER.KIND`."""
    state = optimizer.get("state", {}).items()
    return {
        f"{name}.{kind}"
        for name, kinds in state
        for kind, value in kinds.items()
        if isinstance(value, Tensor)
    }


def _with_prefix(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
