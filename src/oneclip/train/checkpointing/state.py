"""All that a training needs to go on as if it had never stopped: to a checkpoint and back, on any number of processes.

Tensors go by names, those of the optimizer too: which process holds which share of them is not in a checkpoint.
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
from oneclip.checkpoint.readers.dcp import Table
from oneclip.checkpoint.readers.read import METADATA_KEY
from oneclip.errors import ConfigError
from oneclip.train.checkpointing.checkpoint import (
    prune,
    random_states,
    read_checkpoint,
    read_facts,
    require_same_shapes,
    restore_random_states,
    tidy,
    write_checkpoint,
)
from oneclip.train.checkpointing.dcp import ShardWriter, read_shards, require_same_names
from oneclip.train.distributed.parallel import is_shard
from oneclip.train.distributed.world import World

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
        # its groups are left out: they are of the configuration, and of how the weights are shared
        return {
            "state_dict": of["model"],
            "loss_state_dict": of["loss_fn"],
            "optimizer": {"state": optimizer["state"]},
        }

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
        tidy(file.parent)
        write_checkpoint(file, {**tensors, **facts, "random": random_states(), **description})
        prune(file.parent, self._keep)
        return file

    @property
    def has_failed(self) -> bool:
        """Whether what is written in the background cannot be, as far as this rank knows; `finish` says why, on all."""
        return self._writer is not None and self._writer.has_failed

    def finish(self) -> None:
        """Wait for what is written in the background."""
        if self._writer is not None:
            self._writer.finish()

    def facts(self, path: Path) -> dict[str, Any]:
        """What a checkpoint says beside its tensors."""
        return read_facts(path) if path.is_dir() else read_checkpoint(path, values=False)

    def read(self, path: Path, also: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Bring weights and optimizer back to a checkpoint, and the tensors of `also` in place, as far as it has them.

        Args:
            path: a file or a folder.
            also: tensors by name, by the part that they are of, such as "ema".

        Raises:
            CheckpointMismatchError: if it is of another model.
            CheckpointError: if it is damaged.
            ConfigError: if other parameters were trained.
        """
        if path.is_dir():
            self._read_folder(path, also)
        else:
            self._read_file(path, also)

    def _read_folder(self, path: Path, also: Mapping[str, Mapping[str, Tensor]]) -> None:
        table, state = Table(path), self.tensors()
        for part in ("state_dict", "loss_state_dict"):
            require_same_names(table, part, state[part])
        require_same_trained(path, table.under("optimizer.state"), _slots(state["optimizer"]))
        for part, tensors in also.items():
            there = table.under(part)
            state[part] = {name: tensor for name, tensor in tensors.items() if name in there}
            require_same_shapes(
                f"{part} in {path}",
                {name: there[name].shape for name in state[part]},
                {name: tuple(tensor.shape) for name, tensor in state[part].items()},
            )
        read_shards(table, state)
        self._set(path, state, is_full=False)

    def _read_file(self, path: Path, also: Mapping[str, Mapping[str, Tensor]]) -> None:
        file = read_checkpoint(path)
        for part, module in (("state_dict", "model"), ("loss_state_dict", "loss_fn")):
            own = _under(self._trained.state_dict(), f"{module}.")
            require_same_shapes(
                str(path), *({k: tuple(v.shape) for k, v in s.items()} for s in (file.get(part, {}), own))
            )
        _, optimizer = get_state_dict(self._trained, self._optimizer)
        require_same_trained(path, _slots(file["optimizer"]), _slots(optimizer))
        if any(is_shard(parameter) for parameter in self._trained.parameters()):
            self._set(path, file, is_full=True)
        else:
            load_into(self._trained["model"], file["state_dict"], source=str(path))
            load_into(self._trained["loss_fn"], file.get("loss_state_dict", {}), source=f"the loss in {path}")
            self._set_optimizer(path, file["optimizer"])
        for name, tensors in also.items():
            there = {key: value for key, value in file.get(name, {}).items() if key in tensors}
            require_same_shapes(
                f"{name} in {path}",
                {key: tuple(value.shape) for key, value in there.items()},
                {key: tuple(tensors[key].shape) for key in there},
            )
            load_by_name(tensors, there)
        if self._world.is_alone:
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
            raise ConfigError(
                f"{path} was written while other parameters were trainable ({error})"
            ) from error

    def _set_optimizer(self, path: Path, state: Mapping[str, Any]) -> None:
        try:
            set_optimizer_state_dict(
                self._trained,
                self._optimizer,
                self._in_groups(state),
                options=StateDictOptions(full_state_dict=True),
            )
        except (AssertionError, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ConfigError(
                f"{path} was written while other parameters were trainable ({error})"
            ) from error

    def _in_groups(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """What was read of an optimizer, in the groups that this one has."""
        _, own = get_state_dict(self._trained, self._optimizer)
        return {"state": state.get("state", {}), "param_groups": own["param_groups"]}


def require_same_trained(path: Path, there: Iterable[str], here: Iterable[str]) -> None:
    """Raise ConfigError unless two optimizers hold numbers of the same names, `PARAMETER.KIND`."""
    differing = sorted({name.rpartition(".")[0] for name in set(there) ^ set(here)})
    if differing:
        others = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
        raise ConfigError(
            f"{path} was written while other parameters were trainable: {differing[0]}{others} in only one of both "
            "trainings. Use the same settings, or start a training from its weights instead"
        )


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


def _slots(optimizer: Mapping[str, Any]) -> set[str]:
    """The names of the tensors that an optimizer keeps, as `PARAMETER.KIND`."""
    state = optimizer.get("state", {}).items()
    return {
        f"{name}.{kind}"
        for name, kinds in state
        for kind, value in kinds.items()
        if isinstance(value, Tensor)
    }


def _under(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
