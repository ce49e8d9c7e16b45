"""The state of a training to files and back: written whole or not at all, read as data."""

from __future__ import annotations

import contextlib
import json
import pickle
import random
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from oneclip.checkpoint import replacing
from oneclip.errors import CheckpointError, OutputError

NAME = re.compile(r"(epoch|step)_\d+(\.pt)?")  # a file of one process, a folder of several
FACTS = "training.json"  # in such a folder: all that is no tensor


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint; a file of that name is always a whole one.

    Raises:
        OutputError: if it cannot be written, for want of space, say; what stood there before is untouched.
    """
    make_folder(path.parent)
    with replacing(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # PyTorch hides it behind "unexpected pos"
                raise error.__context__ from None
            raise


def make_folder(path: Path) -> None:
    """Make a folder and those above it, if they are not there.

    Raises:
        OutputError: if that is not possible.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the folder {path} could not be made: {error.strerror}") from error


def read_checkpoint(path: str | Path, *, mmap: bool = False) -> dict[str, Any]:
    """The state in a checkpoint of this loop, tensors on the CPU. Runs no code of the file.

    Args:
        mmap: leave the tensors in the file until they are used.

    Raises:
        CheckpointError: if it is missing, damaged, or not a checkpoint of a training.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist; expected a checkpoint to resume from") from error
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{path} is damaged or no checkpoint of a training ({error}); remove it to use an earlier one"
        ) from error
    if not isinstance(state, dict) or not {"state_dict", "optimizer", "step", "random"} <= state.keys():
        raise CheckpointError(
            f"{path} holds weights but no state of a training (optimizer, step, random states), so it "
            "cannot be resumed; start a training from these weights instead"
        )
    return state


def latest_checkpoint(folder: str | Path) -> Path | None:
    """The checkpoint of the most steps in a folder, or None if there is none.

    Raises:
        CheckpointError: if one of them is damaged, since that one may be the latest.
    """
    return max(_candidates(Path(folder)), key=checkpoint_step, default=None)


def checkpoint_step(path: str | Path) -> int:
    """How many steps had been done when a checkpoint was written."""
    path = Path(path)
    return int((read_facts(path) if path.is_dir() else read_checkpoint(path, mmap=True))["step"])


def read_facts(folder: Path) -> dict[str, Any]:
    """What a checkpoint of several processes says beside its tensors.

    Raises:
        CheckpointError: if it is damaged, or no checkpoint of a training.
    """
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder} is damaged or no checkpoint of a training ({error}); remove it to use an earlier one"
        ) from error
    if not isinstance(facts, dict) or "step" not in facts:
        raise CheckpointError(
            f"{folder / FACTS} says nothing of a step; remove {folder} to use an earlier one"
        )
    return facts


def prune(folder: Path, keep: int) -> None:
    """Delete all but the `keep` checkpoints of the most steps; 0 keeps all. Unreadable ones stay."""
    steps: dict[Path, int] = {}
    for path in _candidates(folder) if keep else []:
        with contextlib.suppress(CheckpointError):
            steps[path] = checkpoint_step(path)
    for path in sorted(steps, key=steps.__getitem__)[:-keep]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def random_states() -> dict[str, Any]:
    """The states of the global random generators: torch (CPU and CUDA), numpy, and Python's."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss],
        "python": random.getstate(),
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Put the global random generators back to where `random_states` found them."""
    torch.set_rng_state(states["torch"].clone())
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"][: torch.cuda.device_count()])
    name, keys, position, has_gauss, gauss = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    random.setstate(states["python"])


def _candidates(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.glob("*"))
        if NAME.fullmatch(path.name) and path.is_dir() == (path.suffix != ".pt")
    ]
