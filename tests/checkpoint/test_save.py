"""Saved files are complete, or absent."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest
import torch

from oneclip.checkpoint import read, save
from oneclip.errors import OutputError
from tests import programs

WEIGHTS = {
    "a": torch.arange(6.0).reshape(2, 3),
    "n": torch.tensor(3),
    "h": torch.ones(2, dtype=torch.bfloat16),
}
SUFFIXES = [".safetensors", ".pt", ".pth", ".bin"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("metadata", [None, {"model_cfg": {"embed_dim": 3}, "epoch": 2, "names": ["ünï"]}])
def test_saved_tensors_are_read_bit_for_bit(tmp_path: Path, suffix: str, metadata: dict | None) -> None:
    save(tmp_path / f"m{suffix}", WEIGHTS, metadata)
    found = read(tmp_path / f"m{suffix}")
    assert found.state_dict.keys() == WEIGHTS.keys()
    assert all(
        torch.equal(found.state_dict[k], v) and found.state_dict[k].dtype == v.dtype
        for k, v in WEIGHTS.items()
    )
    assert {key: value for key, value in found.metadata.items() if key != "format"} == (metadata or {})


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_views_parameters_and_shared_memory_are_saved(tmp_path: Path, suffix: str) -> None:
    table = torch.nn.Parameter(torch.arange(12.0).reshape(3, 4))
    tensors = {"a": table, "tied": table, "b": table.T, "c": table[1:, ::2], "d": table[0]}
    save(tmp_path / f"m{suffix}", tensors)
    found = read(tmp_path / f"m{suffix}").state_dict
    assert all(torch.equal(found[name], tensor.detach()) for name, tensor in tensors.items())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_file_permissions_follow_the_umask_or_the_old_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"m{suffix}"
    old = os.umask(0o027)
    try:
        save(path, WEIGHTS)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o604)
        save(path, WEIGHTS)
        assert stat.S_IMODE(path.stat().st_mode) == 0o604
    finally:
        os.umask(old)


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "latest.pt").symlink_to("epoch_1.pt")
    save(tmp_path / "latest.pt", WEIGHTS)
    assert (tmp_path / "latest.pt").is_symlink()
    assert (tmp_path / "epoch_1.pt").is_file()


@pytest.mark.parametrize(
    ("name", "metadata", "message"),
    [
        ("m.npz", None, "must end in .safetensors"),
        ("missing/m.pt", None, "could not be written: No such file.*are unchanged"),
        ("m.pt", {"x": object()}, "cannot be represented in JSON"),
        ("m.safetensors", {"x": torch.ones(1)}, "cannot be represented in JSON"),
    ],
)
def test_invalid_targets_and_metadata_are_refused(
    tmp_path: Path, name: str, metadata: dict | None, message: str
) -> None:
    with pytest.raises(OutputError, match=message):
        save(tmp_path / name, WEIGHTS, metadata)
    assert list(tmp_path.iterdir()) == []


FULL_DISK = """
import resource, signal, sys
import torch
from oneclip.checkpoint import save
from oneclip.errors import OutputError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save(sys.argv[1], {"w": torch.zeros(10**6)})
except OutputError as error:
    print(error)
    sys.exit(7)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits on the size of files are POSIX")
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"m{suffix}"
    save(path, WEIGHTS)
    before = path.read_bytes()
    done = programs.run(["-c", FULL_DISK, path])
    assert done.returncode == 7, done.stderr
    assert f"{path} could not be written" in done.stdout
    assert "File too large" in done.stdout
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_the_file_is_synced_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, name=name, real=real: (calls.append(name), real(*a))[1])
    save(tmp_path / "m.pt", WEIGHTS)
    assert calls == ["fsync", "replace", "fsync"]
