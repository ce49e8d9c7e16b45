"""The state of a training to files and back: written whole or not at all, read as data."""

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

from oneclip.checkpoint import replacing
from oneclip.checkpoint.readers.torch_zip import Archive
from oneclip.checkpoint.resolve.locations import TRAINING
from oneclip.checkpoint.write import sync_folder
from oneclip.errors import CheckpointError, CheckpointMismatchError, OutputError
from oneclip.hub import read_json

NAME = re.compile(r"(epoch|step)_\d+(\.pt)?")  # a file of one process, a folder of several
BEST = "best"  # the checkpoint of the best evaluation, which none takes the place of but a better one
FACTS = TRAINING  # in such a folder: all that is no tensor
PART = ".part"  # behind the name of a folder that is being written, or deleted
BEFORE = ".before"  # of one that stands aside while another takes its place


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


def read_checkpoint(path: str | Path, *, values: bool = True) -> dict[str, Any]:
    """The state in a checkpoint of this loop, tensors on the CPU. Runs no code of the file.

    Args:
        values: False to read no numbers: the tensors are on the meta device.

    Raises:
        CheckpointError: if it is missing, damaged, or not a checkpoint of a training.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; expected a checkpoint to resume from")
    try:
        with Archive(path) as archive:
            state = archive.whole(values)
    except CheckpointError as error:
        raise CheckpointError(
            f"{path} is damaged or no checkpoint of a training ({error}); remove it to use an earlier one"
        ) from error
    if not isinstance(state, dict) or not {"state_dict", "optimizer", "step", "random"} <= state.keys():
        raise CheckpointError(
            f"{path} holds weights but no state of a training (optimizer, step, random states), so it "
            "cannot be resumed; start a training from these weights instead"
        )
    strange = [name for name, is_sound in _TENSORS.items() if not is_sound(state.get(name, {}))]
    _require_sound(path, state, strange)
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
    return int((read_facts(path) if path.is_dir() else read_checkpoint(path, values=False))["step"])


def read_facts(folder: Path) -> dict[str, Any]:
    """What a checkpoint of several processes says beside its tensors.

    Raises:
        CheckpointError: if it is damaged, or no checkpoint of a training.
    """
    try:
        facts = read_json(folder / FACTS)
    except CheckpointError as error:
        raise CheckpointError(
            f"{folder} is damaged or no checkpoint of a training ({error}); remove it to use an earlier one"
        ) from error
    _require_sound(folder / FACTS, facts)
    return facts


def _require_sound(path: Path, facts: Mapping[str, Any], strange: Iterable[str] = ()) -> None:
    """Raise CheckpointError unless what a checkpoint says is of the types that are written."""
    step = facts.get("step")
    if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step < 2**53:
        raise CheckpointError(
            f"{path} says that it is of step {str(step)[:40]!r}, and a whole number was expected; remove it to use an "
            "earlier checkpoint"
        )
    strange = [*strange, *(name for name in _DICTS if not isinstance(facts.get(name, {}), dict))]
    if strange:
        raise CheckpointError(
            f"{path} is damaged: its {strange[0]} is not what a training writes; remove it to use an earlier checkpoint"
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
    """Delete all but the `keep` checkpoints of the most steps; 0 keeps all. Unreadable ones stay."""
    steps: dict[Path, int] = {}
    for path in _candidates(folder) if keep else []:
        with contextlib.suppress(CheckpointError):
            steps[path] = checkpoint_step(path)
    for path in sorted(steps, key=steps.__getitem__)[:-keep]:
        _delete(path)


def checkpoints_bytes(folder: Path) -> int:
    """How much room the checkpoints in a folder take, whether each is a file or a folder of shares."""
    return sum(
        file.stat().st_size
        for path in _candidates(folder)
        for file in (path, *path.rglob("*"))
        if file.is_file()
    )


def put_in_place(part: Path, path: Path) -> None:
    """Give a folder that is written its name. One that has it stands aside until then, whole.

    Raises:
        OSError: if the disk refuses; what stood there before then has its name again.
    """
    before = path.with_name(path.name + BEFORE)
    sync_folder(part)
    if path.exists():
        shutil.rmtree(before, ignore_errors=True)
        path.rename(before)
    try:
        part.rename(path)
    except OSError:
        if before.exists():
            before.rename(path)
        raise
    sync_folder(path.parent)
    shutil.rmtree(before, ignore_errors=True)


def tidy(folder: Path) -> None:
    """Clear away what a run that was killed left behind while it wrote or deleted; no whole checkpoint is touched.

    Raises:
        OSError: if the disk refuses.
    """
    for part in folder.glob(f"*{PART}"):
        shutil.rmtree(part, ignore_errors=True)
    for before in folder.glob(f"*{BEFORE}"):
        path = before.with_name(before.name.removesuffix(BEFORE))
        if path.exists():
            shutil.rmtree(before, ignore_errors=True)
        else:
            before.rename(path)
    for temporary in folder.glob(".*.tmp"):
        if NAME.match(temporary.name[1:]):
            temporary.unlink()


def require_same_shapes(
    source: str, there: Mapping[str, tuple[int, ...]], here: Mapping[str, tuple[int, ...]]
) -> None:
    """Raise CheckpointMismatchError unless a checkpoint has the tensors of a model, in their shapes."""
    missing, unexpected = sorted(here.keys() - there.keys()), sorted(there.keys() - here.keys())
    reshaped = [(name, there[name], here[name]) for name in sorted(here.keys() & there.keys())]
    reshaped = [(name, theirs, ours) for name, theirs, ours in reshaped if theirs != ours]
    if missing or unexpected or reshaped:
        raise CheckpointMismatchError(source, missing, unexpected, reshaped)


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
    """Put the global random generators back to where `random_states` found them.

    Raises:
        CheckpointError: if these are no such states.
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


def _candidates(folder: Path) -> list[Path]:
    """Whole checkpoints; one that stands aside is among them only while no other has its name."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*")):
        name = path.name.removesuffix(BEFORE)
        if NAME.fullmatch(name) and path.is_dir() == (not name.endswith(".pt")):
            found.setdefault(name, path)
    return list(found.values())


def _delete(path: Path) -> None:
    """A folder loses its name at once: half of it must not be taken for a checkpoint."""
    with contextlib.suppress(OSError):  # one too many is no reason to end a training
        if not path.is_dir():
            path.unlink()
            return
        gone = path.with_name(path.name + PART)
        shutil.rmtree(gone, ignore_errors=True)
        path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
