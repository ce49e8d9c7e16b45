"""Interrupted or damaged outputs: the same command resumes, or reports the problem."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oneclip.embed.folders import LocalOutputFolder
from oneclip.embed.outputs import check_output
from oneclip.embed.parts import METADATA_FILE, remove_parts
from oneclip.embed.run import EmbedOutcome
from oneclip.errors import OutputError

Embed = Callable[..., EmbedOutcome]


class Killed(Exception):
    """Stands for the end of a process."""


@pytest.mark.parametrize("removed", [0, 1, 2])
def test_a_kill_while_removing_parts_does_not_block_the_next_run(
    run: Embed, photos: Path, monkeypatch: pytest.MonkeyPatch, removed: int
) -> None:
    left = [removed]
    remove = LocalOutputFolder.remove

    def dying(folder: LocalOutputFolder, name: str) -> None:
        if not left[0]:
            raise Killed
        left[0] -= 1
        remove(folder, name)

    with monkeypatch.context() as patched:
        patched.setattr(LocalOutputFolder, "remove", dying)
        patched.setattr(shutil, "rmtree", lambda path, **options: dying(LocalOutputFolder(path), "."))
        with pytest.raises(Killed):
            run(photos)
    run(photos)
    with np.load("vectors.npz") as file:
        assert len(file["names"]) == 6
    assert not Path("vectors.npz.partial").exists()


def test_metadata_is_removed_after_the_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (METADATA_FILE, "part-000000.npz", "part-000001.npz", "_damaged-part-000002.npz"):
        (tmp_path / name).touch()
    removed: list[str] = []
    monkeypatch.setattr(LocalOutputFolder, "remove", lambda self, name: removed.append(name))
    remove_parts(LocalOutputFolder(tmp_path))
    assert (len(removed), removed[-1]) == (4, METADATA_FILE)


@pytest.mark.parametrize("output", ["vectors.npz", "folder"])
def test_parts_without_metadata_are_resumed(run: Embed, photos: Path, output: str) -> None:
    """An earlier version removed the metadata before the parts, and may have been killed in between."""
    pytest.importorskip("pyarrow")
    run(photos, output=output)
    if output == "folder":
        Path(output, METADATA_FILE).unlink()
    else:
        Path("vectors.npz.partial").mkdir()
        Path(output).rename("vectors.npz.partial/part-000000.npz")
    assert (run(photos, output=output).encoded, Path(output).exists()) == (0, True)
    assert Path("folder", METADATA_FILE).exists() == (output == "folder")
    assert not Path("vectors.npz.partial").exists()


def test_parts_of_another_program_are_unchanged(photos: Path) -> None:
    Path("folder").mkdir()
    Path("folder/part-000000.parquet").write_bytes(b"PAR1 of another program")
    with pytest.raises(OutputError, match=r"it contains part-000000\.parquet; .* or remove the folder"):
        check_output("folder", ".parquet", overwrite=True)


def rewritten(path: Path, compression: int = zipfile.ZIP_STORED, **changes: Any) -> None:
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files} | changes
    (np.savez if compression == zipfile.ZIP_STORED else np.savez_compressed)(path, **arrays)


def invalid_text(count: int) -> Any:
    """Return an array of strings with a number that is no character; NumPy makes invalid strings of it."""
    return np.full(count, 0x17AB4670, np.uint32).view("<U1")


DAMAGE: dict[str, Callable[[Path], object]] = {
    "vectors of one axis": lambda path: rewritten(path, vectors=np.zeros(6, np.float32)),
    "vectors that are no numbers": lambda path: rewritten(path, vectors=np.full((6, 16), "x")),
    "fewer vectors": lambda path: rewritten(path, vectors=np.zeros((5, 16), np.float32)),
    "names that are numbers": lambda path: rewritten(path, names=np.arange(6)),
    "names of two axes": lambda path: rewritten(path, names=np.full((6, 2), "x")),
    "a name of no characters": lambda path: rewritten(path, names=invalid_text(6)),
    "metadata of no characters": lambda path: rewritten(path, settings=invalid_text(1).reshape(())),
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
def test_a_damaged_output_is_reported_and_unchanged(run: Embed, photos: Path, kind: str) -> None:
    run(photos)
    path = Path("vectors.npz")
    DAMAGE[kind](path)
    before = path.read_bytes()
    with pytest.raises(OutputError, match=r"vectors\.npz .*(damaged|not written by).*--overwrite"):
        run(photos)
    assert path.read_bytes() == before
