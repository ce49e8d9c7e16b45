"""Damaged or forged training checkpoints raise one clear error, run no code and need little memory."""

from __future__ import annotations

import json
import random
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from oneclip.errors import CheckpointError
from oneclip.train.checkpointing.checkpoint import (
    latest_checkpoint,
    random_states,
    read_checkpoint,
    read_metadata,
    restore_random_states,
    write_checkpoint,
)


def state(**changes: Any) -> dict[str, Any]:
    weight = torch.arange(6.0).reshape(2, 3)
    whole = {
        "state_dict": {"weight": weight, "tied": weight},
        "loss_state_dict": {},
        "optimizer": {
            "state": {"weight": {"step": torch.tensor(2.0), "exp_avg": weight + 1}},
            "param_groups": [],
        },
        "step": 2,
        "random": random_states(),
        "identity": {"seed": 1},
    }
    return whole | changes


def test_a_checkpoint_is_restored_exactly(tmp_path: Path) -> None:
    written = state()
    write_checkpoint(tmp_path / "step_2.pt", written)
    found = read_checkpoint(tmp_path / "step_2.pt")
    assert torch.equal(found["state_dict"]["weight"], written["state_dict"]["weight"])
    assert found["state_dict"]["tied"].data_ptr() == found["state_dict"]["weight"].data_ptr()
    assert found["optimizer"]["state"]["weight"]["step"] == 2
    assert (found["step"], found["identity"]) == (2, {"seed": 1})
    expected = (random.random(), float(np.random.rand()), float(torch.rand(1)))
    restore_random_states(found["random"])
    assert (random.random(), float(np.random.rand()), float(torch.rand(1))) == expected


def test_without_values_tensors_are_on_the_meta_device(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "step_2.pt", state())
    found = read_checkpoint(tmp_path / "step_2.pt", values=False)
    assert (found["step"], found["state_dict"]["weight"].device.type) == (2, "meta")


class Touching:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_checkpoint_that_calls_a_function_raises(tmp_path: Path) -> None:
    torch.save(state(extra=Touching(tmp_path / "ran")), tmp_path / "step_2.pt")
    with pytest.raises(CheckpointError, match=r"step_2\.pt is damaged or not a training checkpoint.*"):
        read_checkpoint(tmp_path / "step_2.pt")
    assert not (tmp_path / "ran").exists()


def test_a_compressed_checkpoint_needs_no_memory(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "sound.pt")
    with (
        zipfile.ZipFile(tmp_path / "sound.pt") as sound,
        zipfile.ZipFile(tmp_path / "step_2.pt", "w", zipfile.ZIP_DEFLATED) as forged,
    ):
        for name in sound.namelist():
            forged.writestr(name, bytes(2**28) if name.endswith("data/0") else sound.read(name))
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match="would unpack to"):
            read_checkpoint(tmp_path / "step_2.pt")
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": "two"}, "whole number"),
        ({"step": -1}, "whole number"),
        ({"step": True}, "whole number"),
        ({"optimizer": []}, "optimizer"),
        ({"optimizer": {"state": {"weight": 3}}}, "optimizer"),
        ({"state_dict": {"weight": 3}}, "state_dict"),
        ({"identity": 3}, "identity"),
        ({"random": None}, "random"),
    ],
)
def test_a_checkpoint_with_an_entry_of_a_wrong_type_raises(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    torch.save(state(**change), tmp_path / "step_2.pt")
    with pytest.raises(CheckpointError, match=message) as caught:
        read_checkpoint(tmp_path / "step_2.pt")
    assert "step_2.pt" in str(caught.value)


@pytest.mark.parametrize("step", ['"two"', "-1", "null", "[1]", "1e999", "true", "9" * 5000])
def test_metadata_with_an_invalid_step_raises(tmp_path: Path, step: str) -> None:
    folder = tmp_path / "step_2"
    folder.mkdir()
    (folder / "training.json").write_text(f'{{"step": {step}}}')
    with pytest.raises(CheckpointError, match=r"training\.json"):
        read_metadata(folder)
    with pytest.raises(CheckpointError, match=r"training\.json"):
        latest_checkpoint(tmp_path)


@pytest.mark.parametrize("content", ["[" * 100_000, json.dumps([1]), "{", '{"step": 1, "identity": []}'])
def test_malformed_metadata_raises(tmp_path: Path, content: str) -> None:
    (tmp_path / "training.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"training\.json"):
        read_metadata(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"torch": torch.zeros(3)},
        {"torch": None},
        {"numpy": ["MT19937", torch.zeros(2), 1, 0, 0.0]},
        {"numpy": 3},
        {"python": (3, (1, 2), None)},
        {"cuda": None, "python": "x"},
    ],
)
def test_damaged_random_states_raise(change: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="random states"):
        restore_random_states(random_states() | change)
