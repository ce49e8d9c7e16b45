"""Sharded checkpoints of several processes, written in the background with torch.distributed.checkpoint.

Each process writes its own shards. Any number of processes can read them.
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

from oneclip.checkpoint import read, save
from oneclip.checkpoint.readers.dcp import DataOnlyReader, DistributedCheckpoint
from oneclip.errors import CheckpointError, OneCLIPError, OutputError
from oneclip.train.checkpointing.checkpoint import (
    METADATA_FILE,
    PARTIAL_SUFFIX,
    clean_interrupted,
    make_folder,
    move_into_place,
    prune,
    read_metadata,
    require_same_shapes,
)
from oneclip.train.distributed.world import World

_WEIGHT_KEYS = {"model": "state_dict", "ema": "ema"}


class AsyncCheckpointWriter:
    """Writer of checkpoint folders in the background. A folder gets its final name as soon as it is complete.

    Args:
        world: of the training. Every rank has a writer, and calls its methods at the same steps.
        keep: number of checkpoints to keep; 0 keeps all.
    """

    def __init__(self, world: World, keep: int) -> None:
        self.world, self.keep = world, keep
        # groups of their own, so that neither the background writes nor the agreement on them mix with the training
        self._write_group, self._agree_group = (dist.new_group(backend="gloo") for _ in range(2))
        self._pending: tuple[Future[None], Path] | None = None

    @property
    def has_failed(self) -> bool:
        """True if the background write has failed on this rank; `finish` then raises on all ranks."""
        if self._pending is None:
            return False
        future, _ = self._pending
        return future.done() and future.exception() is not None

    def write(self, path: Path, tensors: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
        """Start writing a checkpoint once the previous one is complete. The tensors may change after this returns.

        Raises:
            OutputError: on all ranks, if one of them cannot write, or the previous checkpoint could not be written.
        """
        self.finish()
        part = path.with_name(path.name + PARTIAL_SUFFIX)
        with self._all_or_none(path):
            if self.world.is_rank_zero:
                make_folder(path.parent)
                clean_interrupted(path.parent)
                make_folder(part)
                (part / METADATA_FILE).write_text(json.dumps(dict(metadata)), encoding="utf-8")
        with self._all_or_none(path):
            written = async_save(dict(tensors), storage_writer=_Writer(part), process_group=self._write_group)
            self._pending = _chain(written, lambda future: self._publish(future, part, path)), path

    def finish(self) -> None:
        """Wait until the checkpoint that is being written is complete.

        Raises:
            OutputError: on all ranks, if it could not be written.
        """
        if self._pending is None:
            return
        (future, path), self._pending = self._pending, None
        with self._all_or_none(path):
            future.result()

    def _publish(self, written: Any, part: Path, path: Path) -> None:
        """Rename the folder after all ranks have written their last byte. Runs in the background thread."""
        try:
            written.result()
            if self.world.is_rank_zero:
                move_into_place(part, path)
        except BaseException:
            if self.world.is_rank_zero:
                shutil.rmtree(part, ignore_errors=True)
            raise
        if self.world.is_rank_zero:
            prune(path.parent, self.keep)

    @contextmanager
    def _all_or_none(self, path: Path) -> Iterator[None]:
        """Raise OutputError on every rank if one of them fails."""
        failure: BaseException | None = None
        try:
            yield
        except (Exception, CheckpointException) as error:  # torch wraps errors in the latter, a BaseException
            failure = error
        reasons: list[str | None] = [None] * self.world.size
        dist.all_gather_object(reasons, _reason(failure) if failure else None, group=self._agree_group)
        reason = next(filter(None, reasons), None)
        if reason is not None:
            self._pending = None
            raise OutputError(
                f"cannot write {path}: {reason}; earlier checkpoints are unchanged"
            ) from failure


class _Writer(FileSystemWriter):
    """File writer that raises the error of the disk instead of PyTorch's "unexpected pos"."""

    def write_data(self, plan: Any, planner: Any) -> Any:
        try:
            return super().write_data(plan, planner)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def load_sharded(table: DistributedCheckpoint, into: dict[str, Any]) -> None:
    """Load the tensors of a checkpoint into a state dict by name, in place. Each rank reads its own shards.

    Raises:
        CheckpointError: if it is damaged.
    """
    try:
        load(into, storage_reader=DataOnlyReader(table), no_dist=not _is_joined())
    except OneCLIPError:
        raise
    except (Exception, CheckpointException) as error:  # as above
        raise CheckpointError(
            f"{table.folder} is damaged: {_reason(error)}; remove it to resume from an earlier one"
        ) from error


def require_same_names(table: DistributedCheckpoint, part: str, tensors: Mapping[str, Any]) -> None:
    """Raise CheckpointMismatchError unless a part of a checkpoint has exactly these tensors, with the same shapes."""
    require_same_shapes(
        str(table.folder),
        {name: stored.shape for name, stored in table.tensors_in(part).items()},
        {name: tuple(tensor.shape) for name, tensor in tensors.items()},
    )


def consolidate(folder: str | Path, out: str | Path, *, weights: str = "model") -> Path:
    """Write the weights of a sharded checkpoint into one safetensors file. One process is enough.

    Args:
        folder: a checkpoint folder of a training, `step_N` or `epoch_N`.
        out: the file to write.
        weights: "model", or "ema" for the averaged weights.

    Returns:
        `out`.

    Raises:
        CheckpointError: if the folder is damaged or does not contain these weights.
        OutputError: if the file cannot be written.
    """
    folder, out = Path(folder), Path(out)
    description = read_metadata(folder).get("description", {})
    save(out, read(folder, part=_WEIGHT_KEYS[weights]).state_dict, description)
    return out


def _chain(before: Any, act: Callable[[Any], None]) -> Future[None]:
    """Return a future of `act(before)`, called in the thread of `before` (callbacks would swallow errors)."""
    after: Future[None] = Future()

    def run(_: Any) -> None:
        try:
            act(before)
        except BaseException as error:
            after.set_exception(error)
        else:
            after.set_result(None)

    before.add_done_callback(run)
    return after


def _reason(error: BaseException) -> str:
    """Return the first cause of an error, on one line."""
    if isinstance(error, CheckpointException):
        rank, (error, _) = next(iter(error.failures.items()))
        return f"{_reason(error)} (rank {rank})"
    if isinstance(error, OSError) and not isinstance(error, OneCLIPError) and error.strerror:
        return error.strerror
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _is_joined() -> bool:
    return dist.is_available() and dist.is_initialized()
