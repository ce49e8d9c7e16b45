"""Outputs that a run left behind or a disk has damaged: the same command goes on, or says what is wrong."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oneclip.embed.folders import LocalFolder
from oneclip.embed.parts import MADE_BY, clear
from oneclip.embed.run import Outcome
from oneclip.errors import OutputError

Embed = Callable[..., Outcome]


class Killed(Exception):
    """Stands for the end of a process."""


@pytest.mark.parametrize("removed", [0, 1, 2])
def test_a_kill_while_parts_are_removed_does_not_lock_the_command_out(
    run: Embed, photos: Path, monkeypatch: pytest.MonkeyPatch, removed: int
) -> None:
    left = [removed]
    remove = LocalFolder.remove

    def dying(folder: LocalFolder, name: str) -> None:
        if not left[0]:
            raise Killed
        left[0] -= 1
        remove(folder, name)

    with monkeypatch.context() as patched:
        patched.setattr(LocalFolder, "remove", dying)
        patched.setattr(shutil, "rmtree", lambda path, **options: dying(LocalFolder(path), "."))
        with pytest.raises(Killed):
            run(photos)
    run(photos)
    with np.load("vectors.npz") as file:
        assert len(file["names"]) == 6
    assert not Path("vectors.npz.partial").exists()


def test_what_made_the_parts_is_removed_after_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (MADE_BY, "part-000000.npz", "part-000001.npz", "_damaged-part-000002.npz"):
        (tmp_path / name).touch()
    removed: list[str] = []
    monkeypatch.setattr(LocalFolder, "remove", lambda self, name: removed.append(name))
    clear(LocalFolder(tmp_path))
    assert (len(removed), removed[-1]) == (4, MADE_BY)


def rewritten(path: Path, compression: int = zipfile.ZIP_STORED, **changes: Any) -> None:
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files} | changes
    (np.savez if compression == zipfile.ZIP_STORED else np.savez_compressed)(path, **arrays)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "vectors of one axis": lambda path: rewritten(path, vectors=np.zeros(6, np.float32)),
    "vectors that are no numbers": lambda path: rewritten(path, vectors=np.full((6, 16), "x")),
    "fewer vectors": lambda path: rewritten(path, vectors=np.zeros((5, 16), np.float32)),
    "names that are numbers": lambda path: rewritten(path, names=np.arange(6)),
    "names of two axes": lambda path: rewritten(path, names=np.full((6, 2), "x")),
    "one name": lambda path: rewritten(path, names=np.array("x")),
    "digests that are none": lambda path: rewritten(path, sha256=np.full(6, b"x")),
    "digests that are no text": lambda path: rewritten(path, sha256=np.full(6, b"\xff" * 64)),
    "an archive that unpacks to much more": lambda path: rewritten(
        path, zipfile.ZIP_DEFLATED, more=np.zeros(2**20)
    ),
    "half of it": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "nothing": lambda path: path.write_bytes(b""),
    "something else": lambda path: path.write_bytes(b"x" * 1000),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_output_is_named_and_stays_as_it_is(run: Embed, photos: Path, kind: str) -> None:
    run(photos)
    path = Path("vectors.npz")
    DAMAGE[kind](path)
    before = path.read_bytes()
    with pytest.raises(OutputError, match=r"vectors\.npz .*(damaged|holds no vectors).*--overwrite"):
        run(photos)
    assert path.read_bytes() == before
