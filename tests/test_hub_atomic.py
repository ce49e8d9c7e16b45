"""Atomic writes of files and folders, and file locks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from oneclip.errors import CheckpointError, OutputError
from oneclip.hub.atomic import file_lock, publish_folder, replace_file, replace_folder, try_file_lock


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, RuntimeError, CheckpointError, ValueError])
def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    expected = OutputError if error in (OSError, RuntimeError) else error

    def write_half() -> None:
        with replace_file(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(expected):
        write_half()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("durable", [True, False])
def test_only_a_durable_write_is_flushed_to_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", flushed.append)
    with replace_file(tmp_path / "file", durable=durable) as temporary:
        temporary.write_text("new")
    assert (tmp_path / "file").read_text() == "new"
    assert bool(flushed) == durable


def test_a_folder_is_replaced_only_by_force_and_only_if_no_file_is_lost(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    with replace_folder(folder) as temporary:
        (temporary / "a").write_text("old")
    with pytest.raises(OutputError, match="exists and is not empty"), replace_folder(folder):
        pass
    with (
        pytest.raises(OutputError, match="also contains a, which would be deleted"),
        replace_folder(folder, force=True) as temporary,
    ):
        (temporary / "b").write_text("new")
    assert (folder / "a").read_text() == "old"
    with replace_folder(folder, force=True) as temporary:
        (temporary / "a").write_text("new")
    assert (folder / "a").read_text() == "new"
    assert names(tmp_path) == ["folder"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failed_rename_leaves_the_old_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    new, target, old = tmp_path / "new", tmp_path / "target", tmp_path / "old"
    for folder in (new, target):
        folder.mkdir()
        (folder / "file").write_text(folder.name)
    rename = Path.rename

    def failing(self: Path, to: Path) -> Path:
        if self == new:
            raise error
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(error):
        publish_folder(new, target, old)
    assert (target / "file").read_text() == "target"
    assert names(tmp_path) == ["new", "target"]


def test_a_lock_excludes_others_until_it_is_released(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    lock = try_file_lock(path)
    assert lock is not None
    assert try_file_lock(path) is None
    lock.release()
    with file_lock(path):
        assert try_file_lock(path) is None


def test_a_lock_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        try_file_lock(tmp_path / "file" / ".lock")
