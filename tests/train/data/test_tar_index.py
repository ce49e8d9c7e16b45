"""Tar indexes: built once, stored, and rebuilt when the tar changes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from tars import members, write_tar

from oneclip.errors import DataError
from oneclip.train.data import tar_index as module
from oneclip.train.data.tar_index import TarIndex, tar_index
from tests import programs


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tars that an index was built for."""
    places: list[str] = []
    build = module._build_index

    def noted(place: str, size: int) -> TarIndex:
        places.append(place)
        return build(place, size)

    monkeypatch.setattr(module, "_build_index", noted)
    return places


def test_an_index_has_the_position_of_each_member(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"x/1.txt": b"one", "x/1.seg.png": b"image", "2.JPG": b"two" * 1000})
    index = tar_index(str(path))
    content = path.read_bytes()
    found = {
        (index.keys.split(b"\0")[sample].decode(), index.kinds[kind]): content[start : start + size]
        for sample, kind, start, size in zip(
            index.samples, index.kind, index.starts, index.sizes, strict=True
        )
    }
    assert found == {("x/1", "txt"): b"one", ("x/1", "seg.png"): b"image", ("2", "jpg"): b"two" * 1000}


def test_it_is_built_once_and_stored_next_to_the_tar(tmp_path: Path, built: list[str]) -> None:
    path = write_tar(tmp_path / "a.tar", members(3))
    first, second = tar_index(str(path)), tar_index(str(path))
    assert built == [str(path)]
    assert (tmp_path / "a.tar.index").is_file()
    assert sorted(os.listdir(tmp_path)) == ["a.tar", "a.tar.index"]
    assert (first.digest, first.keys, first.kinds) == (second.digest, second.keys, second.kinds)
    assert first.starts.tolist() == second.starts.tolist()


def test_it_is_rebuilt_for_a_tar_that_changed(tmp_path: Path, built: list[str]) -> None:
    path = write_tar(tmp_path / "a.tar", members(3))
    first = tar_index(str(path))
    write_tar(path, members(4))
    second = tar_index(str(path))
    assert len(built) == 2
    assert second.digest != first.digest
    os.utime(path, ns=(0, 0))
    tar_index(str(path))
    assert len(built) == 3


def test_it_is_stored_in_the_cache_if_the_folder_is_not_writable(
    tmp_path: Path, cache: Path, built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tar(tmp_path / "a.tar", members(3))
    replace = os.replace

    def refusing(source: Path, target: Path) -> None:
        if target.parent == tmp_path:
            raise PermissionError(13, "Permission denied", str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", refusing)  # root may write anywhere
    tar_index(str(path))
    tar_index(str(path))
    assert len(built) == 1
    assert list((cache / "tars").glob("*.index"))
    assert os.listdir(tmp_path) == ["a.tar"]


def test_a_damaged_index_is_rebuilt(tmp_path: Path, built: list[str]) -> None:
    path = write_tar(tmp_path / "a.tar", members(3))
    tar_index(str(path))
    index = tmp_path / "a.tar.index"
    content = index.read_bytes()
    for spoilt in (
        b"",
        b"not an index",
        content[:100],
        content[:-40],
        content[:300] + b"?" * 40 + content[340:],
    ):
        index.write_bytes(spoilt)
        assert tar_index(str(path)).keys == b"0000\x000001\x000002"
    assert len(built) == 6


@pytest.mark.parametrize("at", [0.3, 0.6, 0.9])
def test_a_tar_truncated_anywhere_is_detected(tmp_path: Path, at: float) -> None:
    path = write_tar(tmp_path / "a.tar", members(20, size=900))
    path.write_bytes(path.read_bytes()[: int(at * 20 * 2560) + 1])
    index = tar_index(str(path))
    assert index.damage
    assert 0 < len(index.samples) < 40


def test_a_tar_truncated_between_two_members_is_detected(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {f"{n}.txt": b"x" * 512 for n in range(4)})
    path.write_bytes(path.read_bytes()[: 2 * 1024])
    assert "empty header" in tar_index(str(path)).damage


def test_a_missing_file_raises_and_a_file_that_is_not_a_tar_is_damaged(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        tar_index(str(tmp_path / "none.tar"))
    (tmp_path / "a.tar").write_bytes(b"no tar" * 1000)
    assert "invalid header at byte 0" in tar_index(str(tmp_path / "a.tar")).damage


def test_processes_that_start_together_build_an_index_once(tmp_path: Path, cache: Path) -> None:
    path = write_tar(tmp_path / "a.tar", members(5))
    program = (
        "import os, sys, time\n"
        "from oneclip.train.data import tar_index as module\n"
        "build = module._build_index\n"
        "def slow(place, size):\n"
        "    print('built', flush=True)\n"
        "    time.sleep(1)\n"
        "    return build(place, size)\n"
        "module._build_index = slow\n"
        "print('ready', flush=True)\n"
        "while not os.path.exists(sys.argv[2]):\n"
        "    time.sleep(0.01)\n"
        "print(module.tar_index(sys.argv[1]).digest)\n"
    )
    begin = tmp_path / "begin"
    begun = [programs.begin(["-c", program, path, begin]) for _ in range(2)]
    assert [printed.readline() for _, printed in begun] == ["ready\n"] * 2
    begin.touch()
    lines = [line for _, printed in begun for line in printed.read().split()]
    for process, printed in begun:
        printed.close()
        process.join()
    assert sorted(lines).count("built") == 1
    assert len(set(lines)) == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("starts", -1),
        ("starts", 2**40),
        ("starts", 2**63 - 1),
        ("sizes", 2**63 - 1),
        ("sizes", -(2**62)),
        ("samples", 9),
        ("samples", -1),
        ("kind", 7),
    ],
)
def test_an_index_that_refers_outside_its_tar_is_rebuilt(
    tmp_path: Path, built: list[str], name: str, value: int
) -> None:
    path = write_tar(tmp_path / "a.tar", members(3))
    first = tar_index(str(path))
    index = tmp_path / "a.tar.index"
    with np.load(index) as file:
        arrays = {key: file[key].copy() for key in file.files}
    arrays[name][-1] = value
    forged = {key: arrays[key] for key in ("samples", "kind", "starts", "sizes")}
    about = json.loads(arrays["about"].tobytes())
    about["digest"] = module._digest(first.keys, first.kinds, forged)
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    with index.open("wb") as kept:
        np.savez(kept, **arrays)
    assert tar_index(str(path)).starts.tolist() == first.starts.tolist()
    assert built == [str(path)] * 2
