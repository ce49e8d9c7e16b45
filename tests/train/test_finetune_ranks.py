"""Fine-tuning under torchrun: ranks share evaluations, all their broken images are named, and it exits with 0."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from ranks import run_ranks
from tiny import PIXELS, picture, write_tiny_model

from oneclip.cli.app import run as cli
from oneclip.cli.exits import ExitCode

SETTINGS = ["--epochs", "2", "--batch-size", "8", "--points", "3", "--lr", "1e-3", "--eval-every", "3"]


def test_two_processes_give_the_metrics_of_one(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = write_tiny_model(tmp_path / "tiny.safetensors")
    for i in range(16):
        picture(i).save(tmp_path / f"{i}.png")
    for i in (3, 8, 12):
        (tmp_path / f"{i}.png").write_bytes(b"no image")
    rows = [f"{i}.png,squares of kind {i}" for i in range(16)]
    (tmp_path / "pairs.csv").write_text("\n".join(["filepath,caption", *rows]))
    for name, colour in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
        (tmp_path / "classes" / name).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (PIXELS, PIXELS), tuple(c + i for c in colour)).save(
                tmp_path / "classes" / name / f"{i}.png"
            )
    (tmp_path / "classes" / "red" / "0.png").write_bytes(b"no image")

    def command(out: str, *more: str) -> list[str]:
        data = [str(model), str(tmp_path / "pairs.csv"), "-o", str(tmp_path / out), *more, *SETTINGS]
        return [
            "finetune",
            *data,
            "--eval-data",
            str(tmp_path / "pairs.csv"),
            "--reference",
            str(tmp_path / "classes"),
        ]

    tolerant = ["--max-bad-fraction", "0.9", "--no-tensorboard", "--device", "cpu"]
    assert cli(command("one", *tolerant)) == ExitCode.SKIPPED
    capfd.readouterr()
    run_ranks(2, ["-m", "oneclip", *command("two", *tolerant, "--strategy", "fsdp")])  # asserts exit code 0
    told = capfd.readouterr().err
    assert all(f"{i}.png was skipped" in told for i in (3, 8, 12))
    assert told.count("red/0.png was skipped") == 1
    one, two = (json.loads((tmp_path / out / "wise_ft.json").read_text()) for out in ("one", "two"))
    for ours, theirs in zip(two["points"], one["points"], strict=True):
        assert ours["new"] == pytest.approx(theirs["new"], rel=1e-3, abs=1e-4)
        assert ours["reference"] == pytest.approx(theirs["reference"], rel=1e-3, abs=1e-4)
    evaluations = [
        [
            json.loads(line)
            for line in (tmp_path / out / "metrics.jsonl").read_text().splitlines()
            if "evaluation" in line
        ]
        for out in ("one", "two")
    ]
    assert [line["step"] for line in evaluations[1]] == [3, 4]
    for ours, theirs in zip(evaluations[1], evaluations[0], strict=True):
        assert ours["evaluation"] == pytest.approx(theirs["evaluation"], rel=1e-3, abs=1e-4)
