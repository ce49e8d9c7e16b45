"""The state of a training of several processes to a folder and back, each writing its share while training goes on.

The tensors are in the format of torch.distributed.checkpoint, and can be read by any number of processes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed.checkpoint import FileSystemWriter, async_save, load
from torch.distributed.checkpoint.api import CheckpointException

from oneclip.checkpoint import save
from oneclip.checkpoint.readers import read
from oneclip.checkpoint.readers.dcp import Reader, Table
from oneclip.errors import CheckpointError, OneCLIPError, OutputError
from oneclip.train.checkpointing.checkpoint import (
    FACTS,
    PART,
    make_folder,
    prune,
    put_in_place,
    read_facts,
    require_same_shapes,
    tidy,
)
from oneclip.train.distributed.world import World

PARTS = {"model": "state_dict", "ema": "ema"}


class ShardWriter:
    """Writes checkpoints in the background; one that has its name is a whole one, and has it at once.

    Args:
        world: of the training; every rank has one, and calls its methods at the same steps.
        keep: checkpoints that stay; 0 for all.
    """

    def __init__(self, world: World, keep: int) -> None:
        self.world, self.keep = world, keep
        # the background talks beside the training, and the ranks about it beside the background
        self._behind, self._before = (dist.new_group(backend="gloo") for _ in range(2))
        self._under_way: tuple[Future[None], Path] | None = None

    @property
    def has_failed(self) -> bool:
        """Whether what is being written cannot be, as far as this rank knows; `finish` then says why, on all ranks."""
        if self._under_way is None:
            return False
        future, _ = self._under_way
        return future.done() and future.exception() is not None

    def write(self, path: Path, tensors: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Begin to write a checkpoint, after the one before it is whole. Its tensors may change once this returns.

        Raises:
            OutputError: on all ranks, if one of them cannot write, or the checkpoint before could not be written.
        """
        self.finish()
        part = path.with_name(path.name + PART)
        with self._agreeing(path):
            if self.world.is_first:
                make_folder(path.parent)
                tidy(path.parent)
                make_folder(part)
                (part / FACTS).write_text(json.dumps(dict(facts)), encoding="utf-8")
        with self._agreeing(path):
            written = async_save(dict(tensors), storage_writer=_Writer(part), process_group=self._behind)
            self._under_way = _then(written, lambda future: self._name(future, part, path)), path

    def finish(self) -> None:
        """Wait until the checkpoint that is being written is whole, and has its name.

        Raises:
            OutputError: on all ranks, if it could not be written.
        """
        if self._under_way is None:
            return
        (future, path), self._under_way = self._under_way, None
        with self._agreeing(path):
            future.result()

    def _name(self, written: Any, part: Path, path: Path) -> None:
        """What follows on the last byte of all ranks, in the thread that waited for it."""
        try:
            written.result()
            if self.world.is_first:
                put_in_place(part, path)
        except BaseException:
            if self.world.is_first:
                shutil.rmtree(part, ignore_errors=True)
            raise
        if self.world.is_first:
            prune(path.parent, self.keep)

    @contextmanager
    def _agreeing(self, path: Path) -> Iterator[None]:
        """Have all ranks go on, or none: what one of them runs into is an OutputError on each."""
        failure: BaseException | None = None
        try:
            yield
        except (
            Exception,
            CheckpointException,
        ) as error:  # which is what torch wraps others in, and no Exception
            failure = error
        told: list[str | None] = [None] * self.world.size
        dist.all_gather_object(told, _reason(failure) if failure else None, group=self._before)
        reason = next(filter(None, told), None)
        if reason is not None:
            self._under_way = None
            raise OutputError(
                f"{path} could not be written: {reason}; earlier checkpoints are untouched"
            ) from failure


class _Writer(FileSystemWriter):
    """Says what is wrong with the disk."""

    def write_data(self, plan: Any, planner: Any) -> Any:
        try:
            return super().write_data(plan, planner)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # PyTorch hides it behind "unexpected pos"
                raise error.__context__ from None
            raise


def read_shards(table: Table, into: dict[str, Any]) -> None:
    """Fill a state, shards or whole tensors, with what a checkpoint holds by the same names; each rank reads its share.

    Raises:
        CheckpointError: if it is damaged.
    """
    try:
        load(into, storage_reader=Reader(table), no_dist=not _is_joined())
    except OneCLIPError:
        raise
    except (Exception, CheckpointException) as error:  # as above
        raise CheckpointError(
            f"{table.folder} is damaged: {_reason(error)}; remove it to use an earlier one"
        ) from error


def require_same_names(table: Table, part: str, tensors: Mapping[str, Any]) -> None:
    """Raise CheckpointMismatchError unless a part of a checkpoint has these tensors, in their shapes."""
    require_same_shapes(
        str(table.folder),
        {name: stored.shape for name, stored in table.under(part).items()},
        {name: tuple(tensor.shape) for name, tensor in tensors.items()},
    )


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
    description = read_facts(folder).get("description", {})
    save(out, read(folder, part=PARTS[weights]).state_dict, description)
    return out


def _then(before: Any, act: Callable[[Any], None]) -> Future[None]:
    """What is done when a future is done, in its thread; a future again, since callbacks keep their errors."""
    after: Future[None] = Future()

    def go(_: Any) -> None:
        try:
            act(before)
        except BaseException as error:
            after.set_exception(error)
        else:
            after.set_result(None)

    before.add_done_callback(go)
    return after


def _reason(error: BaseException) -> str:
    """What went wrong at first, in a line."""
    if isinstance(error, CheckpointException):
        rank, (error, _) = next(iter(error.failures.items()))
        return f"{_reason(error)} (rank {rank})"
    if isinstance(error, OSError) and not isinstance(error, OneCLIPError) and error.strerror:
        return error.strerror
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _is_joined() -> bool:
    return dist.is_available() and dist.is_initialized()
