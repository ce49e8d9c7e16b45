"""Two cases for each hostile file: inspect it, and load it. Nothing in the file may run."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import hostile
import hostile_configurations
import hostile_files
from sandbox import Case

from oneclip import checkpoint, zoo


def files() -> Iterator[tuple[str, hostile.Writer]]:
    yield from hostile.whole_pickles()
    for writers in (
        hostile_files.archives,
        hostile_files.stored,
        hostile_files.arrays,
        hostile_files.indices,
        hostile_configurations.configurations,
        hostile_configurations.others,
    ):
        yield from writers()


def cases(root: Path, step: int = 1) -> Iterator[Case]:
    """Iterate over the cases.

    Args:
        root: an empty folder; it is the current folder while they run.
        step: take only every `step`-th file.
    """
    for number, (name, write) in enumerate(islice(files(), 0, None, step)):
        folder = root / "files" / str(number)
        yield f"inspect {name}", partial(inspect, folder, write)
        yield f"load {name}", partial(load, folder, write, root)


def inspect(folder: Path, write: hostile.Writer) -> None:
    path = written(folder, write)
    found = checkpoint.gather_evidence(source(path), values=False)
    if path.is_dir():
        checkpoint.resolve_evidence(found)


def load(folder: Path, write: hostile.Writer, root: Path) -> None:
    path = written(folder, write)
    try:
        if path.is_dir():
            checkpoint.load(path, device="cpu")
        else:
            checkpoint.read(path)
    finally:
        ran = list(root.rglob("ran"))
        shutil.rmtree(root / "files")
        if ran:
            raise AssertionError(f"it ran a command, which wrote {ran[0]}")


def written(folder: Path, write: hostile.Writer) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return write(folder)


def source(path: Path) -> zoo.ModelSource:
    return zoo.ModelSource(str(path), "folder" if path.is_dir() else "file", path=path)
