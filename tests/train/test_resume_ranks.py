"""Trainings that resume with another number of processes, and failures of one rank."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

import oneclip
from oneclip.checkpoint import read
from oneclip.train import consolidate
from oneclip.train.checkpointing.checkpoint import (
    BACKUP_SUFFIX,
    PARTIAL_SUFFIX,
    clean_interrupted,
    latest_checkpoint,
    move_into_place,
    prune,
)
from tests import programs
from tests.train.resumed import STRATEGIES

CHECKPOINTS = ("step_6", "epoch_2.pt")  # written by four processes, and by one


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip("this build of torch has no gloo")
    folder = tmp_path_factory.mktemp("runs")
    done = programs.run(["-m", "tests.train.resumed", folder])
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def reports(runs: Path, case: str) -> list[dict[str, Any]]:
    """Read what both ranks reported."""
    return [json.loads((runs / f"{case}, rank {rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_then_four_then_one_then_two_processes_get_the_losses_of_one(runs: Path, strategy: str) -> None:
    unbroken = losses(runs / "unbroken")
    assert len(unbroken) == 10
    assert losses(runs / strategy) == pytest.approx(unbroken, rel=1e-5)


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_a_checkpoint_of_another_model_raises_on_all_ranks(runs: Path, checkpoint: str) -> None:
    errors = {answer["error"] for answer in reports(runs, f"other model, {checkpoint}")}
    assert errors == {"CheckpointMismatchError"}


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_a_checkpoint_of_other_trained_parameters_raises_on_all_ranks(runs: Path, checkpoint: str) -> None:
    for answer in reports(runs, f"other parameters, {checkpoint}"):
        assert answer["error"] == "ConfigError"
        assert "visual.class_embedding" in answer["message"]


def test_a_folder_that_one_rank_cannot_create_ends_the_training_on_all(runs: Path) -> None:
    for answer in reports(runs, "blocked folder"):
        assert answer["error"] == "OutputError"
        assert "step_2.part: File exists" in answer["message"]


def test_a_full_disk_of_one_rank_ends_the_training_on_all(runs: Path) -> None:
    for answer in reports(runs, "full disk"):
        assert "step_4: File too large (rank 1)" in answer["result"]["message"]


def test_a_checkpoint_that_could_not_be_written_leaves_only_the_previous_one(runs: Path) -> None:
    assert reports(runs, "full disk")[0]["result"]["there"] == ["step_2"]
    assert latest_checkpoint(runs / "full disk") == runs / "full disk" / "step_2"


def test_a_checkpoint_is_finished_while_the_next_steps_run(runs: Path) -> None:
    assert reports(runs, "finished in the background")[0]["result"]


def test_averaged_weights_are_restored_from_folders_and_files(runs: Path) -> None:
    answers = [*reports(runs, "averages"), json.loads((runs / "averages of one, rank 0.json").read_text())]
    assert [answer["result"] for answer in answers] == [dict.fromkeys(STRATEGIES, 0.0)] * 3


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_consolidated_file_has_the_weights_of_all_shards(runs: Path, strategy: str, tmp_path: Path) -> None:
    file = consolidate(runs / strategy / "step_6", tmp_path / "model.safetensors")
    weights = read(runs / strategy / "step_6").state_dict
    loaded = oneclip.load(file).model.state_dict()
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)


def test_a_sharded_checkpoint_loads_as_a_model(runs: Path) -> None:
    folder = oneclip.load(runs / "fsdp" / "step_10").model.state_dict()
    other = oneclip.load(runs / "ddp" / "step_10").model.state_dict()
    assert max(float((folder[name] - other[name]).abs().max()) for name in folder) < 1e-4


def make(path: Path, step: int = 1) -> Path:
    path.mkdir(parents=True)
    (path / "training.json").write_text(json.dumps({"step": step}))
    return path


def test_a_backup_is_the_latest_checkpoint_until_another_has_its_name(tmp_path: Path) -> None:
    make(tmp_path / "step_1", 1)
    backup = make(tmp_path / f"step_2{BACKUP_SUFFIX}", 2)
    make(tmp_path / f"step_3{PARTIAL_SUFFIX}", 3)
    assert latest_checkpoint(tmp_path) == backup
    named = make(tmp_path / "step_2", 2)
    assert latest_checkpoint(tmp_path) == named


def test_cleaning_restores_a_backup_without_a_replacement(tmp_path: Path) -> None:
    make(tmp_path / f"step_2{BACKUP_SUFFIX}", 2)
    make(tmp_path / f"step_3{PARTIAL_SUFFIX}", 3)
    clean_interrupted(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step_2"]


def test_cleaning_deletes_what_a_killed_process_was_writing(tmp_path: Path) -> None:
    (tmp_path / ".step_4.pt.1a2b3c4d.tmp").write_bytes(b"half")
    (tmp_path / ".another.tmp").write_bytes(b"whole")
    clean_interrupted(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".another.tmp"]


def test_a_finished_folder_replaces_the_old_one(tmp_path: Path) -> None:
    make(tmp_path / "step_2", 2)
    part = make(tmp_path / f"step_2{PARTIAL_SUFFIX}", 2)
    (part / "new").touch()
    move_into_place(part, tmp_path / "step_2")
    assert [path.name for path in tmp_path.iterdir()] == ["step_2"]
    assert (tmp_path / "step_2" / "new").is_file()


def test_a_failed_replacement_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    before = make(tmp_path / "step_2", 2)
    with pytest.raises(FileNotFoundError):
        move_into_place(tmp_path / f"step_2{PARTIAL_SUFFIX}", before)
    assert latest_checkpoint(tmp_path) == before


def test_older_checkpoint_folders_are_deleted(tmp_path: Path) -> None:
    for step in range(1, 5):
        make(tmp_path / f"step_{step}", step)
    prune(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_3", "step_4"]
