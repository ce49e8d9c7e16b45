"""Training checkpoints: which state dict is selected, and what else is read."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from oneclip.checkpoint import read
from oneclip.errors import CheckpointError

WEIGHTS = {"visual.proj": torch.arange(6.0).reshape(2, 3), "ln.weight": torch.ones(2, dtype=torch.float16)}
AVERAGE = {name: tensor + 1 for name, tensor in WEIGHTS.items()}


def same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor] = WEIGHTS) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[k], expected[k]) for k in expected)


def saved(folder: Path, content: Any, **how: Any) -> Path:
    torch.save(content, folder / "m.pt", **how)
    return folder / "m.pt"


@pytest.mark.parametrize(
    "key", ["state_dict", "model_state_dict", "model", "module", "state_dict_ema", "model_ema"]
)
def test_the_state_dict_is_found_by_its_usual_names(tmp_path: Path, key: str) -> None:
    found = read(saved(tmp_path, {key: WEIGHTS, "epoch": 3, "optimizer": {"state": {}}}))
    assert same(found.state_dict)
    assert (found.format, found.part, found.other_parts) == ("training", key, ())
    assert found.metadata["epoch"] == 3


@pytest.mark.parametrize("average", ["state_dict_ema", "model_ema", "ema_state_dict", "ema"])
def test_weights_have_priority_over_their_average(tmp_path: Path, average: str) -> None:
    path = saved(tmp_path, {average: AVERAGE, "state_dict": WEIGHTS})
    found = read(path)
    assert same(found.state_dict)
    assert (found.part, found.other_parts) == ("state_dict", (average,))
    asked = read(path, part=average)
    assert same(asked.state_dict, AVERAGE)
    assert (asked.part, asked.other_parts) == (average, ("state_dict",))


def test_two_candidates_for_the_model_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, {"model": WEIGHTS, "state_dict": AVERAGE})
    with pytest.raises(CheckpointError, match="state_dict and model, and does not say which"):
        read(path)
    assert same(read(path, part="model").state_dict)


@pytest.mark.parametrize("part", ["optimizer", "nothing"])
def test_an_unknown_part_is_an_error(tmp_path: Path, part: str) -> None:
    path = saved(tmp_path, {"state_dict": WEIGHTS, "optimizer": {"lr": 1}})
    with pytest.raises(CheckpointError, match=rf"it has no '{part}'; it has state_dict"):
        read(path, part=part)
    save_file(WEIGHTS, tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match="not a training checkpoint"):
        read(tmp_path / "m.safetensors", part=part)


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "clip.", "model.module.", "module.model._orig_mod."]
)
def test_a_prefix_of_all_names_is_removed(tmp_path: Path, prefix: str) -> None:
    wrapped = {prefix + name: tensor for name, tensor in WEIGHTS.items()}
    assert same(read(saved(tmp_path, {"state_dict": wrapped})).state_dict)
    save_file(wrapped, tmp_path / "m.safetensors")
    assert same(read(tmp_path / "m.safetensors").state_dict)


def test_a_prefix_of_some_names_stays(tmp_path: Path) -> None:
    state = {"model.a": torch.ones(1), "loss.weight": torch.ones(1)}
    assert sorted(read(saved(tmp_path, {"state_dict": state})).state_dict) == ["loss.weight", "model.a"]


def test_names_that_become_equal_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has a twice"):
        read(saved(tmp_path, {"a": torch.ones(1), "_orig_mod.a": torch.zeros(1)}))


@pytest.mark.parametrize("zipped", [True, False], ids=["new", "old"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_numpy_numbers_and_builtin_types_are_read_as_metadata(
    tmp_path: Path, zipped: bool, protocol: int
) -> None:
    content = {
        "state_dict": WEIGHTS,
        "loss": np.float64(0.25),
        "step": np.int64(7),
        "done": np.bool_(True),
        "history": [np.float32(0.5), 1.0],
        "random": np.random.default_rng(0).integers(0, 9, 5),
        "args": argparse.Namespace(lr=1e-3),
        "tags": {"a"},
        "raw": b"x",
    }
    form = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": zipped}
    found = read(saved(tmp_path, content, **form))
    assert same(found.state_dict)
    expected = {"loss": 0.25, "step": 7, "done": True, "history": [0.5, 1.0], "tags": ["a"]}
    assert found.metadata == expected


@pytest.mark.parametrize("kind", ["new", "old", "safetensors", "npz"])
def test_without_values_tensors_are_on_the_meta_device(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"m.{kind}"
    if kind == "safetensors":
        save_file(WEIGHTS, path)
    elif kind == "npz":
        np.savez(path, **{name: tensor.numpy() for name, tensor in WEIGHTS.items()})
    else:
        torch.save(WEIGHTS, path, _use_new_zipfile_serialization=kind == "new")
    found, whole = read(path, values=False), read(path)
    assert all(tensor.is_meta for tensor in found.state_dict.values())
    shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in found.state_dict.items()}
    assert shapes == {name: (tensor.shape, tensor.dtype) for name, tensor in whole.state_dict.items()}
    assert found.stored_dtypes == whole.stored_dtypes == {"float32": 6, "float16": 2}
    assert same(whole.state_dict)


def test_numpy_arrays_of_any_order_and_without_axes_are_read(tmp_path: Path) -> None:
    table = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    brain = np.arange(4, dtype=np.uint16).view("V2")  # as bfloat16 is stored
    np.savez(
        tmp_path / "m.npz",
        c=table,
        f=np.asfortranarray(table),
        t=np.float64(3.0),
        e=np.zeros((0, 3)),
        b=brain,
    )
    found = read(tmp_path / "m.npz").state_dict
    assert torch.equal(found["c"], torch.from_numpy(table))
    assert torch.equal(found["f"], torch.from_numpy(table))
    assert (found["t"].shape, found["t"].item(), found["e"].shape) == ((), 3.0, (0, 3))
    assert torch.equal(found["b"], torch.arange(4, dtype=torch.int16).view(torch.bfloat16))
    np.savez_compressed(tmp_path / "z.npz", c=table)
    assert read(tmp_path / "z.npz").format == "npz"


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_shards_are_read_by_their_index(tmp_path: Path, suffix: str) -> None:
    import json

    names = {"visual.proj": f"m-00001-of-00002.{suffix}", "ln.weight": f"m-00002-of-00002.{suffix}"}
    for name, shard in names.items():
        if suffix == "safetensors":
            save_file({name: WEIGHTS[name]}, tmp_path / shard)
        else:
            torch.save({name: WEIGHTS[name]}, tmp_path / shard)
    index = tmp_path / f"m.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 28}, "weight_map": names}))
    found = read(index)
    assert same(found.state_dict)
    assert found.files == tuple(tmp_path / shard for shard in names.values())
    assert all(tensor.is_meta for tensor in read(index, values=False).state_dict.values())
    (tmp_path / f"m-00002-of-00002.{suffix}").unlink()
    with pytest.raises(CheckpointError, match=r"m-00002-of-00002.* does not exist"):
        read(index)
