"""Training checkpoints on disk: write them atomically, read them as data, list and delete them."""

from __future__ import annotations

import contextlib
import random
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from oneclip.checkpoint.readers.torch_zip import TorchArchive
from oneclip.checkpoint.resolve.locations import TRAINING_FILE
from oneclip.errors import CheckpointError, CheckpointMismatchError, OutputError
from oneclip.hub import read_json
from oneclip.hub.atomic import publish_folder, replace_file

CHECKPOINT_NAME = re.compile(
    r"(epoch|step)_\d+(\.pt)?"
)  # a file if one process trains, a folder if several do
BEST_NAME = "best"  # checkpoint of the best evaluation; only a better one replaces it
METADATA_FILE = TRAINING_FILE  # in a checkpoint folder: everything except the tensors
PARTIAL_SUFFIX = ".part"  # of a folder that is being written or deleted
BACKUP_SUFFIX = ".before"  # of a folder that is being replaced


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint file atomically.

    Raises:
        OutputError: if it cannot be written, for example on a full disk; an existing file stays unchanged.
    """
    make_folder(path.parent)
    with replace_file(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # PyTorch hides it behind "unexpected pos"
                raise error.__context__ from None
            raise


def make_folder(path: Path) -> None:
    """Create a folder and its parents, if they do not exist.

    Raises:
        OutputError: if it cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot create the folder {path}: {error.strerror}") from error


def read_checkpoint(path: str | Path, *, values: bool = True) -> dict[str, Any]:
    """Read a checkpoint file of a training, with tensors on the CPU. Runs no code from the file.

    Args:
        path: of the file.
        values: False to skip the values of the tensors, which are then on the meta device.

    Raises:
        CheckpointError: if it is missing, damaged, or not a training checkpoint.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path} not found; expected a checkpoint to resume from")
    try:
        with TorchArchive(path) as archive:
            state = archive.load(values)
    except CheckpointError as error:
        raise CheckpointError(
            f"{path} is damaged or not a training checkpoint ({error}); remove it to resume from an earlier one"
        ) from error
    if not isinstance(state, dict) or not {"state_dict", "optimizer", "step", "random"} <= state.keys():
        raise CheckpointError(
            f"{path} contains weights but no training state (optimizer, step, random states), so it cannot be resumed; "
            "start a new training from these weights instead"
        )
    malformed = [name for name, is_valid in _TENSORS.items() if not is_valid(state.get(name, {}))]
    _require_valid(path, state, malformed)
    return state


def latest_checkpoint(folder: str | Path) -> Path | None:
    """Return the checkpoint with the most steps in a folder; None if the folder has no checkpoint.

    Raises:
        CheckpointError: if a checkpoint is damaged, since it may be the latest.
    """
    return max(_list_checkpoints(Path(folder)), key=checkpoint_step, default=None)


def checkpoint_step(path: str | Path) -> int:
    """Return the number of finished steps when a checkpoint was written."""
    path = Path(path)
    return int((read_metadata(path) if path.is_dir() else read_checkpoint(path, values=False))["step"])


def read_metadata(folder: Path) -> dict[str, Any]:
    """Read everything except the tensors from a checkpoint folder.

    Raises:
        CheckpointError: if it is damaged, or not a training checkpoint.
    """
    try:
        metadata = read_json(folder / METADATA_FILE)
    except CheckpointError as error:
        raise CheckpointError(
            f"{folder} is damaged or not a training checkpoint ({error}); remove it to resume from an earlier one"
        ) from error
    _require_valid(folder / METADATA_FILE, metadata)
    return metadata


def _require_valid(path: Path, metadata: Mapping[str, Any], malformed: Iterable[str] = ()) -> None:
    """Raise CheckpointError if an entry of a checkpoint has the wrong type, or is one of `malformed`."""
    step = metadata.get("step")
    if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step < 2**53:
        raise CheckpointError(
            f"{path} is damaged: its step is {str(step)[:40]!r}; expected a whole number. Remove it to resume from an "
            "earlier checkpoint"
        )
    malformed = [*malformed, *(name for name in _DICTS if not isinstance(metadata.get(name, {}), dict))]
    if malformed:
        raise CheckpointError(
            f"{path} is damaged: its {malformed[0]!r} has the wrong type. Remove it to resume from an earlier "
            "checkpoint"
        )


def _are_tensors(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(tensor, torch.Tensor) for tensor in value.values())


def _is_optimizer(value: Any) -> bool:
    state = value.get("state", {}) if isinstance(value, dict) else None
    return isinstance(state, dict) and all(isinstance(kinds, dict) for kinds in state.values())


_DICTS = ("identity", "scaler", "evaluation", "random", "description")
_TENSORS = {
    "state_dict": _are_tensors,
    "loss_state_dict": _are_tensors,
    "ema": _are_tensors,
    "optimizer": _is_optimizer,
}


def prune(folder: Path, keep: int) -> None:
    """Delete all but the `keep` checkpoints with the most steps; 0 keeps all. Unreadable checkpoints stay."""
    steps: dict[Path, int] = {}
    for path in _list_checkpoints(folder) if keep else []:
        with contextlib.suppress(CheckpointError):
            steps[path] = checkpoint_step(path)
    for path in sorted(steps, key=steps.__getitem__)[:-keep]:
        _delete(path)


def total_checkpoint_bytes(folder: Path) -> int:
    """Return the size of all checkpoints in a folder, in bytes."""
    return sum(
        file.stat().st_size
        for path in _list_checkpoints(folder)
        for file in (path, *path.rglob("*"))
        if file.is_file()
    )


def move_into_place(part: Path, path: Path) -> None:
    """Rename a finished folder to its final name, and replace the folder that has this name.

    Raises:
        OSError: if a file operation fails; the old folder then has its name again.
    """
    publish_folder(part, path, path.with_name(path.name + BACKUP_SUFFIX))


def clean_interrupted(folder: Path) -> None:
    """Remove what a killed run left behind while it wrote or deleted. Complete checkpoints are not touched.

    Raises:
        OSError: if a file operation fails.
    """
    for part in folder.glob(f"*{PARTIAL_SUFFIX}"):
        shutil.rmtree(part, ignore_errors=True)
    for before in folder.glob(f"*{BACKUP_SUFFIX}"):
        path = before.with_name(before.name.removesuffix(BACKUP_SUFFIX))
        if path.exists():
            shutil.rmtree(before, ignore_errors=True)
        else:
            before.rename(path)
    for temporary in folder.glob(".*.tmp"):
        if CHECKPOINT_NAME.match(temporary.name[1:]):
            temporary.unlink()


def require_same_shapes(
    source: str, stored: Mapping[str, tuple[int, ...]], own: Mapping[str, tuple[int, ...]]
) -> None:
    """Raise CheckpointMismatchError unless a checkpoint has exactly the tensors of a model, with the same shapes.

    Args:
        source: the checkpoint, for the message.
        stored, own: shape of each tensor, in the checkpoint and in the model.
    """
    missing, unexpected = sorted(own.keys() - stored.keys()), sorted(stored.keys() - own.keys())
    shared = sorted(own.keys() & stored.keys())
    reshaped = [(name, stored[name], own[name]) for name in shared if stored[name] != own[name]]
    if missing or unexpected or reshaped:
        raise CheckpointMismatchError(source, missing, unexpected, reshaped)


def random_states() -> dict[str, Any]:
    """Return the states of the global random generators: torch (CPU and CUDA), numpy and Python."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss],
        "python": random.getstate(),
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Restore the states that `random_states` returned.

    Raises:
        CheckpointError: if they are damaged.
    """
    try:
        _restore(states)
    except (AttributeError, LookupError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"the random states in the checkpoint are damaged ({error}); resume from an earlier one"
        ) from error


def _restore(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["torch"].clone())
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"][: torch.cuda.device_count()])
    name, keys, position, has_gauss, gauss = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    random.setstate(states["python"])


def _list_checkpoints(folder: Path) -> list[Path]:
    """List complete checkpoints. A backup counts only while no other checkpoint has its name."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*")):
        name = path.name.removesuffix(BACKUP_SUFFIX)
        if CHECKPOINT_NAME.fullmatch(name) and path.is_dir() == (not name.endswith(".pt")):
            found.setdefault(name, path)
    return list(found.values())


def _delete(path: Path) -> None:
    """Delete a checkpoint. A folder is renamed first, so that a half-deleted one never counts as a checkpoint."""
    with contextlib.suppress(OSError):  # a leftover checkpoint must not stop the training
        if not path.is_dir():
            path.unlink()
            return
        deleted = path.with_name(path.name + PARTIAL_SUFFIX)
        shutil.rmtree(deleted, ignore_errors=True)
        path.rename(deleted)
        shutil.rmtree(deleted, ignore_errors=True)
