"""The state of a training of several processes to a folder and back, each writing its share while training goes on.

The tensors are in the format of torch.distributed.checkpoint, and can be read by any number of processes. Its table
of contents is a pickle: resume from checkpoints of your own only.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor

from oneclip.checkpoint import save
from oneclip.errors import CheckpointError, CheckpointMismatchError, OutputError
from oneclip.train.checkpoints import FACTS, make_folder, prune, read_facts
from oneclip.train.distributed import World

METADATA = ".metadata"
PART = ".part"


class ShardWriter:
    """Writes checkpoints in the background; one that has its name is a whole one.

    Args:
        world: of the training; every rank has one, and calls its methods at the same steps.
        keep: checkpoints that stay; 0 for all.
    """

    def __init__(self, world: World, keep: int) -> None:
        self.world, self.keep = world, keep
        self._group = dist.new_group(
            backend="gloo"
        )  # the background talks beside the training, not in between
        self._under_way: tuple[Any, Path] | None = None

    def write(self, path: Path, tensors: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Begin to write a checkpoint, after the one before it is whole. Its tensors may change once this returns.

        Raises:
            OutputError: if the one before it could not be written.
        """
        from torch.distributed.checkpoint import async_save

        self.finish()
        part = path.with_name(path.name + PART)
        if self.world.is_first:
            make_folder(path.parent)
            for rest in path.parent.glob(f"*{PART}"):  # of a run that was killed
                shutil.rmtree(rest, ignore_errors=True)
            make_folder(part)
            _write_facts(part / FACTS, facts)
        dist.barrier(group=self._group)
        future = async_save(dict(tensors), checkpoint_id=str(part), process_group=self._group)
        self._under_way = (future, path)

    def finish(self) -> None:
        """Wait until the checkpoint that is being written is whole, and delete those past `keep`.

        Raises:
            OutputError: if it could not be written.
        """
        if self._under_way is None:
            return
        (future, path), self._under_way = self._under_way, None
        part = path.with_name(path.name + PART)
        try:
            future.result()
            if self.world.is_first:
                shutil.rmtree(path, ignore_errors=True)
                os.replace(part, path)
                prune(path.parent, self.keep)
        except Exception as error:  # torch wraps what went wrong on any rank in an exception of its own
            if self.world.is_first:
                shutil.rmtree(part, ignore_errors=True)
            raise OutputError(
                f"{path} could not be written: {error}; earlier checkpoints are untouched"
            ) from error
        dist.barrier(group=self._group)


def read_shards(path: Path, into: dict[str, Any]) -> None:
    """Fill a state, shards or whole tensors, with what a folder holds by the same names; each rank reads its share.

    Raises:
        CheckpointMismatchError: if it is of another model.
        CheckpointError: if it is damaged.
    """
    from torch.distributed.checkpoint import FileSystemReader, load

    require_same_names(path, into)
    try:
        load(into, storage_reader=FileSystemReader(path), no_dist=not _is_joined())
    except Exception as error:
        raise CheckpointError(f"{path} is damaged: {error}; remove it to use an earlier one") from error


def require_same_names(path: Path, state: Mapping[str, Any]) -> None:
    """Raise CheckpointMismatchError unless a folder holds the tensors of a model, in their shapes."""
    there = _shapes_in(path, "state_dict.")
    here = {name: tuple(tensor.shape) for name, tensor in state["state_dict"].items()}
    missing = sorted(here.keys() - there.keys())
    unexpected = sorted(there.keys() - here.keys())
    reshaped = [
        (name, there[name], here[name])
        for name in sorted(here)
        if name in there and there[name] != here[name]
    ]
    if missing or unexpected or reshaped:
        raise CheckpointMismatchError(str(path), missing, unexpected, reshaped)


def consolidate(folder: str | Path, out: str | Path, *, weights: str = "model") -> Path:
    """One safetensors file of the weights in a checkpoint of several processes. Needs no other process.

    Args:
        folder: as a training left it, `step_N` or `epoch_N`.
        out: the file.
        weights: "model", or "ema" for the averaged ones.

    Raises:
        CheckpointError: if the folder is damaged or has no such weights.
        OutputError: if the file cannot be written.
    """
    folder, out = Path(folder), Path(out)
    facts = read_facts(folder)
    save(out, read_weights(folder, weights), facts.get("description", {}))
    return out


def read_weights(folder: Path, weights: str = "model") -> dict[str, Tensor]:
    """The weights in a checkpoint of several processes, whole, on the CPU; see `consolidate`."""
    import torch
    from torch.distributed.checkpoint import FileSystemReader, load

    prefix = {"model": "state_dict", "ema": "ema"}[weights]
    kinds = _tensors_in(folder, f"{prefix}.")
    if not kinds:
        raise CheckpointError(f"{folder} holds no weights of the kind {weights!r}")
    state = {name: torch.empty(tuple(kind.size), dtype=kind.properties.dtype) for name, kind in kinds.items()}
    load({prefix: state}, storage_reader=FileSystemReader(folder), no_dist=True)
    return state


def _shapes_in(path: Path, prefix: str) -> dict[str, tuple[int, ...]]:
    return {name: tuple(kind.size) for name, kind in _tensors_in(path, prefix).items()}


def _tensors_in(path: Path, prefix: str) -> dict[str, Any]:
    from torch.distributed.checkpoint import FileSystemReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    try:
        contents = FileSystemReader(path).read_metadata().state_dict_metadata
    except Exception as error:
        raise CheckpointError(
            f"{path} is damaged or no checkpoint of a training ({error}); remove it to use an earlier one"
        ) from error
    return {
        name.removeprefix(prefix): kind
        for name, kind in contents.items()
        if name.startswith(prefix) and isinstance(kind, TensorStorageMetadata)
    }


def _write_facts(path: Path, facts: Mapping[str, Any]) -> None:
    try:
        path.write_text(json.dumps(dict(facts)), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path} could not be written: {error.strerror}") from error


def _is_joined() -> bool:
    return dist.is_available() and dist.is_initialized()
