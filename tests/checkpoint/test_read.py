"""Reading all kinds of files, valid, damaged and malicious."""

from __future__ import annotations

import os
import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import forged
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from oneclip.checkpoint import read, save
from oneclip.checkpoint.readers.safetensors_reader import read_safetensors
from oneclip.errors import CheckpointError

WEIGHTS = {
    "visual.proj": torch.arange(6.0).reshape(2, 3),
    "ln.weight": torch.tensor([1.5, -2.0], dtype=torch.float16),
    "bn.num_batches_tracked": torch.tensor(7),
}


def equal(found: dict[str, Tensor], expected: dict[str, Tensor] = WEIGHTS) -> bool:
    return found.keys() == expected.keys() and all(
        torch.equal(found[k], expected[k]) and found[k].dtype == expected[k].dtype for k in expected
    )


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_state_dicts_are_read(tmp_path: Path, protocol: int, kind: type) -> None:
    torch.save(kind(WEIGHTS), tmp_path / "m.pt", pickle_protocol=protocol)
    found = read(tmp_path / "m.pt")
    assert (found.format, found.metadata) == ("state-dict", {})
    assert equal(found.state_dict)


def test_a_state_dict_with_pytorchs_own_metadata(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    torch.save(module.state_dict(), tmp_path / "m.pt")
    assert equal(read(tmp_path / "m.pt").state_dict, module.state_dict())


def test_parameters_views_and_shared_storages_are_read(tmp_path: Path) -> None:
    table = torch.nn.Parameter(torch.arange(12.0).reshape(3, 4))
    torch.save({"a": table, "b": table[1:, ::2], "c": table.T, "d": table[:0]}, tmp_path / "m.pt")
    found = read(tmp_path / "m.pt").state_dict
    assert torch.equal(found["a"], table.detach())
    assert torch.equal(found["b"], table[1:, ::2].detach())
    assert torch.equal(found["c"], table.T.detach())
    assert found["d"].shape == (0, 4)
    assert found["a"].untyped_storage().data_ptr() == found["b"].untyped_storage().data_ptr()
    assert not any(tensor.requires_grad for tensor in found.values())


def test_the_format_before_pytorch_1_6_is_read(tmp_path: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "m.pt", _use_new_zipfile_serialization=False)
    found = read(tmp_path / "m.pt")
    assert found.format == "state-dict"
    assert equal(found.state_dict)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_weights_and_metadata_of_training_checkpoints_are_read(tmp_path: Path, prefix: str) -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter], lr=1e-3)
    parameter.sum().backward()
    optimizer.step()
    content = {
        "epoch": 9,
        "name": "run",
        "state_dict": {prefix + key: value for key, value in WEIGHTS.items()},
        "optimizer": optimizer.state_dict(),
        "dtype": torch.bfloat16,
        "device": torch.device("cpu"),
        "shape": torch.Size([2, 3]),
    }
    torch.save(content, tmp_path / "epoch_9.pt")
    found = read(tmp_path / "epoch_9.pt")
    assert found.format == "training"
    assert equal(found.state_dict)
    assert found.metadata == {"epoch": 9, "name": "run", "shape": (2, 3)}


def test_a_prefix_that_only_some_names_have_is_part_of_them(tmp_path: Path) -> None:
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "m.pt")
    assert sorted(read(tmp_path / "m.pt").state_dict) == ["b", "module.a"]


def test_numbers_that_are_not_weights_are_metadata(tmp_path: Path) -> None:
    numbers = {
        "input_resolution": torch.tensor(224),
        "context_length": torch.tensor(77),
        "vocab_size": torch.tensor(5),
    }
    torch.save(WEIGHTS | numbers, tmp_path / "m.pt")
    found = read(tmp_path / "m.pt")
    assert equal(found.state_dict)
    assert found.metadata == {"input_resolution": 224, "context_length": 77, "vocab_size": 5}


def test_safetensors_files_are_read(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "m.safetensors", {"format": "pt", "by": "someone"})
    found = read(tmp_path / "m.safetensors")
    assert found.format == "safetensors"
    assert found.metadata == {"format": "pt", "by": "someone"}
    assert equal(found.state_dict)


def test_the_format_does_not_depend_on_the_name(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "m.pt")
    torch.save(WEIGHTS, tmp_path / "m.safetensors")
    assert read(tmp_path / "m.pt").format == "safetensors"
    assert read(tmp_path / "m.safetensors").format == "state-dict"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n<!DOCTYPE html><html></html>", "a page of HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b'{"model_cfg": {}}', "JSON text"),
        (b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03", "compressed with gzip"),
        (b"\x89PNG\r\n\x1a\n" + b"0" * 100, "neither a PyTorch nor a safetensors file"),
        (b"PK\x03\x04" + b"0" * 100, "truncated or damaged"),
        (struct.pack("<Q", 10**9) + b'{"a": 1}', "is truncated"),
        (struct.pack("<Q", 8) + b'{"a": 1}', "has no valid data_offsets"),
    ],
)
def test_other_files_are_refused_and_described(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "m.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read(tmp_path / "m.pt")
    assert str(tmp_path / "m.pt") in str(caught.value)


@pytest.mark.parametrize("length", range(9))
def test_a_safetensors_file_without_a_whole_header_is_refused(tmp_path: Path, length: int) -> None:
    (tmp_path / "m.safetensors").write_bytes(b"\7" * length)
    with pytest.raises(CheckpointError, match=r"m\.safetensors cannot be used: it is truncated"):
        read_safetensors(tmp_path / "m.safetensors")


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"m\.pt cannot be read: No such file"):
        read(tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read(tmp_path)


@pytest.mark.parametrize("content", [torch.ones(3), [torch.ones(3)], {}, {"epoch": 1}, {"state_dict": {}}])
def test_files_without_a_dict_of_tensors_are_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match="expected"):
        read(tmp_path / "m.pt")


class Gadget:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("zipped", [True, False], ids=["new format", "old format"])
@pytest.mark.parametrize("place", ["a weight", "next to the weights", "the whole", "a training checkpoint"])
def test_nothing_of_a_malicious_file_runs(tmp_path: Path, zipped: bool, place: str) -> None:
    gadget = Gadget(tmp_path / "ran")
    content = {
        "a weight": {"w": gadget},
        "next to the weights": WEIGHTS | {"x": gadget},
        "the whole": gadget,
        "a training checkpoint": {"state_dict": WEIGHTS, "optimizer": {"state": [gadget]}},
    }[place]
    torch.save(content, tmp_path / "m.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="might run code; nothing was loaded"):
        read(tmp_path / "m.pt")
    assert not (tmp_path / "ran").exists()


def test_a_bare_malicious_pickle_does_not_run(tmp_path: Path) -> None:
    (tmp_path / "m.pt").write_bytes(pickle.dumps(Gadget(tmp_path / "ran")))
    with pytest.raises(CheckpointError):
        read(tmp_path / "m.pt")
    assert not (tmp_path / "ran").exists()


def test_a_pickled_module_is_refused_with_advice(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=r"refers to torch\.nn\..*save the state dict"):
        read(tmp_path / "m.pt")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A small file of each kind."""
    folder = tmp_path_factory.mktemp("files")
    torch.save({"epoch": 1, "state_dict": WEIGHTS}, folder / "zip")
    torch.save(WEIGHTS, folder / "old", _use_new_zipfile_serialization=False)
    save(folder / "m.safetensors", WEIGHTS, {"model_cfg": {"embed_dim": 3}})
    content = forged.record("__torch__.A", b=forged.record("__torch__.B", w=forged.tensor("0", (2, 2))))
    forged.archive(
        folder / "script", content, {"0": forged.floats(1, 2, 3, 4)}, others={"constants.pkl": b""}
    )
    return {path.name: path.read_bytes() for path in folder.iterdir()}


KINDS = ["zip", "old", "m.safetensors", "script"]
QUIET = settings(
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)


def check(path: Path, data: bytes) -> None:
    """Read a damaged file: it is either read or refused with a CheckpointError."""
    path.write_bytes(data)
    message, sums = str(path), []
    try:
        sums = [tensor.sum().item() for tensor in read(path).state_dict.values()]
    except CheckpointError as error:
        message = str(error)
    assert str(path) in message
    assert all(isinstance(value, int | float | complex) for value in sums)


@pytest.mark.parametrize("kind", KINDS)
@QUIET
@given(data=st.data())
def test_truncated_files_are_read_or_refused(
    tmp_path: Path, files: dict[str, bytes], kind: str, data: st.DataObject
) -> None:
    whole = files[kind]
    check(tmp_path / "m.pt", whole[: data.draw(st.integers(0, len(whole) - 1))])


@pytest.mark.parametrize("kind", KINDS)
@QUIET
@given(data=st.data())
def test_files_with_wrong_bytes_are_read_or_refused(
    tmp_path: Path, files: dict[str, bytes], kind: str, data: st.DataObject
) -> None:
    damaged = bytearray(files[kind])
    changes = st.tuples(st.integers(0, len(damaged) - 1), st.integers(0, 255))
    for place, value in data.draw(st.lists(changes, min_size=1, max_size=4)):
        damaged[place] = value
    check(tmp_path / "m.pt", bytes(damaged))


@QUIET
@given(data=st.data())
def test_pickles_with_wrong_bytes_and_a_valid_checksum_are_read_or_refused(
    tmp_path: Path, data: st.DataObject
) -> None:
    content = bytearray(
        forged.record("__torch__.A", b=forged.record("__torch__.B", w=forged.tensor("0", (2, 2))))
    )
    changes = st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255))
    for place, value in data.draw(st.lists(changes, min_size=1, max_size=4)):
        content[place] = value
    path = forged.archive(tmp_path / "m.pt", bytes(content), {"0": forged.floats(1, 2, 3, 4)})
    check(path, path.read_bytes())


@settings(
    deadline=None,
    max_examples=300,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(content=st.binary(max_size=60))
def test_pickles_of_random_instructions_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    path = forged.archive(tmp_path / "m.pt", content, {"0": forged.floats(1, 2, 3, 4)})
    check(path, path.read_bytes())
