"""Reading checkpoints of torch.distributed.checkpoint, valid and hostile."""

from __future__ import annotations

import json
import pickle
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import oneclip
from oneclip.checkpoint import read
from oneclip.checkpoint.readers.dcp import DistributedCheckpoint
from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg, PreprocessCfg
from oneclip.errors import CheckpointError
from oneclip.model import build_model

pytest.importorskip("torch.distributed.checkpoint")
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")

CFG = ModelCfg(
    16,
    CLIPVisionCfg(layers=1, width=16, head_width=8, patch_size=8, image_size=16),
    CLIPTextCfg(context_length=8, vocab_size=49408, width=16, heads=2, layers=1),
)


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    state: dict[str, Tensor] = build_model(CFG).state_dict()
    return state


@pytest.fixture
def folder(tmp_path: Path, weights: dict[str, Tensor]) -> Path:
    return write(tmp_path / "step_3", weights)


def write(path: Path, weights: dict[str, Tensor], **other: Any) -> Path:
    import torch.distributed.checkpoint as dcp

    average = {name: tensor + 1 for name, tensor in weights.items()}
    optimizer = {"state": {}, "param_groups": [{"lr": 0.1, "params": sorted(weights)}]}
    state = {"state_dict": weights, "ema": average, "optimizer": optimizer, **other}
    dcp.save(state, checkpoint_id=path, no_dist=True)
    description = {"model_cfg": CFG.to_dict(), "preprocess_cfg": PreprocessCfg(size=16).to_dict()}
    (path / "training.json").write_text(json.dumps({"step": 3, "description": description}))
    return path


def change_index(folder: Path, change: Any) -> None:
    index = pickle.loads((folder / ".metadata").read_bytes())
    change(index)
    (folder / ".metadata").write_bytes(pickle.dumps(index))


def test_weights_are_read_as_written(folder: Path, weights: dict[str, Tensor]) -> None:
    found = read(folder).state_dict
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)


def test_averaged_weights_are_read_as_a_part(folder: Path, weights: dict[str, Tensor]) -> None:
    found = read(folder, part="ema").state_dict
    assert all(torch.equal(found[name], weights[name] + 1) for name in weights)


def test_other_parts_and_metadata_are_listed(folder: Path) -> None:
    found = read(folder, values=False)
    assert (found.part, found.other_parts, found.metadata["step"]) == ("state_dict", ("ema",), 3)
    assert all(tensor.is_meta for tensor in found.state_dict.values())


def test_a_missing_part_is_an_error_that_lists_the_others(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no 'state_dict_ema'; it has .*ema"):
        read(folder, part="state_dict_ema")


def test_the_model_loads_by_the_path_of_the_folder(folder: Path, weights: dict[str, Tensor]) -> None:
    loaded = oneclip.load(folder).model.state_dict()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)


def test_an_index_that_calls_something_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / ".metadata").write_bytes(pickle.dumps(Hostile(tmp_path / "ran")))
    with pytest.raises(CheckpointError, match="refers to"):
        read(folder)
    assert not (tmp_path / "ran").exists()


def test_a_tensor_that_calls_something_is_refused(folder: Path, tmp_path: Path) -> None:
    data = pickle.dumps(Hostile(tmp_path / "ran"))
    file = folder / "__0_0.distcp"
    file.write_bytes(data + b"\0" * (file.stat().st_size - len(data)))
    with pytest.raises(CheckpointError):
        read(folder)
    assert not (tmp_path / "ran").exists()


def test_a_value_that_calls_something_is_refused_when_resuming(
    tmp_path: Path, weights: dict[str, Tensor]
) -> None:
    from oneclip.train.checkpointing.dcp import load_sharded

    folder = write(tmp_path / "step_3", weights, value=Hostile(tmp_path / "ran"))
    (tmp_path / "ran").unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match="refers to"):
        load_sharded(DistributedCheckpoint(folder), {"value": None})
    assert not (tmp_path / "ran").exists()


def test_files_outside_the_folder_are_not_read(folder: Path) -> None:
    def change(table: Any) -> None:
        for info in table.storage_data.values():
            info.relative_path = f"../{folder.name}/{info.relative_path}"

    change_index(folder, change)
    with pytest.raises(CheckpointError, match="stored outside the folder"):
        read(folder)


def test_a_tensor_larger_than_the_files_is_refused_before_allocation(folder: Path) -> None:
    def change(table: Any) -> None:
        kind = table.state_dict_metadata["state_dict.logit_scale"]
        kind.size = kind.chunks[0].sizes = torch.Size([2**40])
        kind.chunks[0].offsets = torch.Size([0])
        old = next(index for index in table.storage_data if index.fqn == "state_dict.logit_scale")
        table.storage_data[type(old)(old.fqn, [0])] = table.storage_data[old]

    change_index(folder, change)
    with pytest.raises(CheckpointError, match="more than its files have"):
        read(folder)


def test_a_truncated_file_is_reported(folder: Path) -> None:
    file = folder / "__0_0.distcp"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="truncated"):
        read(folder)


def test_a_missing_file_is_reported(folder: Path) -> None:
    (folder / "__0_0.distcp").unlink()
    with pytest.raises(CheckpointError, match=r"__0_0\.distcp"):
        read(folder)


def pickled(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def test_an_index_cannot_change_a_class(folder: Path, tmp_path: Path) -> None:
    changes = b"\x80\x04cpathlib\nPosixPath\nN}" + pickled("_str") + pickled("elsewhere") + b"s\x86b."
    (folder / ".metadata").write_bytes(changes)
    with pytest.raises(CheckpointError, match=r"changes pathlib\.PosixPath"):
        oneclip.load(folder)
    (tmp_path / "here").write_text("x")
    assert str(tmp_path / "here") == f"{tmp_path}/here"
    assert (tmp_path / "here").read_text() == "x"


NESTED = b"N" + b"q\x00h\x00\x86" * 60  # nested tuples: 2 ** 60 elements to hash
BOMBS = {
    "a tuple as a key": b"\x80\x04}" + NESTED + b"Ns.",
    "a memo entry": b"\x80\x04}r" + struct.pack("<I", 2**28) + b".",
    "a long text": b"\x80\x04\x8d" + struct.pack("<Q", 2**28) + b".",
    "long bytes": b"\x80\x04B" + struct.pack("<I", 2**28) + b".",
    "a frame": b"\x80\x04\x95" + struct.pack("<Q", 2**28) + b"}.",
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_small_index_does_not_allocate_much_memory(folder: Path, kind: str) -> None:
    (folder / ".metadata").write_bytes(BOMBS[kind])
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=r"step_3 cannot be used"):
            read(folder)
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()


def test_a_value_longer_than_its_file_is_refused(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    folder = write(tmp_path / "step_3", weights, value=[1.5])

    def change(table: Any) -> None:
        index = next(index for index in table.storage_data if index.fqn == "value")
        table.storage_data[index].length = 2**60

    assert DistributedCheckpoint(folder).read_value("value") == [1.5]
    change_index(folder, change)
    with pytest.raises(CheckpointError, match="is truncated"):
        DistributedCheckpoint(folder).read_value("value")
