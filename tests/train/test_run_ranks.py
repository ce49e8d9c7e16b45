"""`oneclip train` under torchrun: several processes have the losses of one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from ranks import run_ranks, start_ranks
from six_colours import arguments, logged

import oneclip
from oneclip.cli.app import run as cli
from oneclip.cli.exits import ExitCode
from oneclip.train.run_dir import RunDir


def short_run(data: Path, out: str, *more: str) -> list[str]:
    """Return arguments of a short run, without the name of the command."""
    settings = ["--epochs", "4", "--lr", "1e-3", "--warmup", "0", "--no-tensorboard"]
    return [*arguments(data)[1:], *settings, "--out", str(data / out), *more]


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_train_like_one(data: Path, strategy: str) -> None:
    assert cli(["train", *short_run(data, "run")]) == ExitCode.OK
    run_ranks(2, ["-m", "oneclip.train", *short_run(data, "two", "--strategy", strategy)])
    assert losses(data / "two") == pytest.approx(logged(data), rel=1e-5)
    one, two = (
        oneclip.load(str(data / name / "model"), device="cpu").model.state_dict() for name in ("run", "two")
    )
    assert one.keys() == two.keys()
    for name in ("visual.conv1.weight", "positional_embedding", "logit_scale"):
        torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=1e-4)
    file = data / "consolidated.safetensors"
    assert cli(["convert", str(data / "two" / "epoch_4"), str(file), "--to", "safetensors"]) == ExitCode.OK
    torch.testing.assert_close(oneclip.load(str(file), device="cpu").model.state_dict(), two, rtol=0, atol=0)
    names = {path.name for path in (data / "two").iterdir() if path.name[0] != "."}
    assert {"config.toml", "environment.json", "report.html", "plots", "epoch_4"} <= names
    assert json.loads((data / "two" / "environment.json").read_text())["starts"][0]["processes"] == 2


def test_a_locked_folder_stops_all_processes(data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with RunDir(data / "two"):
        ended = start_ranks(2, ["-m", "oneclip.train", *short_run(data, "two")], timeout=120)
    assert [process.exitcode for process in ended] == [ExitCode.ERROR] * 2
    told = capfd.readouterr().err
    assert told.count("error: another run is writing to") == 1
    assert "error: process 1 stops because process 0 failed: another run" in told
