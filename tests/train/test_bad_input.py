"""Errors of a training are one clear line, and do not damage an existing run."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from six_colours import arguments, write_colours
from tars import members, tar, write_tar

from oneclip.cli.app import run as cli
from oneclip.cli.exits import ExitCode
from oneclip.train import latest_checkpoint, read_checkpoint
from oneclip.train.run_dir import RunDir
from tests import programs

KEPT = ("*.pt", "model/*", "metrics.jsonl")


def checksums(run: Path) -> dict[str, str]:
    """Return the checksum of each file of a run."""
    paths = sorted(path for pattern in KEPT for path in run.glob(pattern))
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trained")


@pytest.fixture
def trained(place: Path) -> Path:
    """Data with a run of one epoch that can be resumed: trained once, and copied back to its folder for each test."""
    data, kept = place / "data", place / "kept"
    if kept.exists():
        shutil.rmtree(data)
        shutil.copytree(kept, data)
    else:
        data.mkdir()
        assert cli(arguments(write_colours(data), "--epochs", "1", "--no-tensorboard")) == ExitCode.OK
        shutil.copytree(data, kept)
    return data


def resume_arguments(data: Path, *more: str) -> list[str]:
    longer = ["--epochs", "3", "--allow-changes"]
    return arguments(data, *longer, "--no-tensorboard", "--resume", "auto", *more)


def without_metrics(run: dict[str, str]) -> dict[str, str]:
    return {name: checksum for name, checksum in run.items() if name != "metrics.jsonl"}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: (data / "pairs.csv").write_text("filepath,text\nred.png,red\n"), "no column 'caption'"),
        (lambda data: (data / "pairs.csv").write_text("filepath,caption\n"), "has no rows"),
        (lambda data: (data / "pairs.csv").write_text(""), "is empty; expected a header"),
        (lambda data: (data / "pairs.csv").unlink(), "does not exist"),
        (lambda data: (data / "pictures" / "red.png").unlink(), "1 of 6 images"),
        (lambda data: (data / "model.json").write_text('{"embed_dim": 8'), "cannot be read as JSON"),
        (lambda data: (data / "model.json").unlink(), "model.json cannot be read"),
        (lambda data: (data / "run" / "epoch_1.pt").write_bytes(b"cut"), "epoch_1.pt is damaged"),
    ],
    ids=["caption column", "no rows", "empty", "no table", "no picture", "broken json", "no json", "damaged"],
)
def test_an_error_is_one_line_that_names_the_cause_and_nothing_is_lost(
    trained: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], object], message: str
) -> None:
    spoil(trained)
    before = checksums(trained / "run")
    capsys.readouterr()
    assert cli(resume_arguments(trained)) == ExitCode.ERROR
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert len(error.strip().splitlines()) == 1
    assert checksums(trained / "run") == before


def in_shards(data: Path, spoiled: bytes | None = None) -> list[str]:
    """Return arguments of a run on two tars, the second of which may be spoiled."""
    write_tar(data / "part-0.tar", members(8))
    second = write_tar(data / "part-1.tar", members(8, first=8))
    if spoiled is not None:
        second.write_bytes(spoiled)
    return [
        *("train", "--data", str(data / "part-{0..1}.tar"), "--out", str(data / "shards")),
        *("--model", str(data / "model.json"), "--batch-size", "4", "--epochs", "1", "--no-tensorboard"),
    ]


def test_a_truncated_tar_is_named_or_skipped(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = tar(members(8, first=8))
    assert cli(in_shards(data, whole[: len(whole) // 2])) == ExitCode.ERROR
    error = capsys.readouterr().err
    assert "part-1.tar is truncated or damaged after" in error
    assert "or use its readable part (" in error
    assert error.startswith("error: ")
    assert len(error.strip().splitlines()) == 1
    assert cli([*in_shards(data, whole[: len(whole) // 2]), "--skip-missing"]) == ExitCode.SKIPPED
    assert "part-1.tar" in capsys.readouterr().err
    assert (data / "shards" / "model").is_dir()


def test_too_many_broken_samples_stop_the_run_with_examples(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = members(8) | {f"{n:04}.png": b"not an image" for n in range(6)}
    assert cli([*in_shards(data, tar(broken)), "--max-bad-fraction", "0"]) == ExitCode.ERROR
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert "samples are broken" in error
    assert "max_bad_fraction" in error


def test_a_folder_that_cannot_be_made_is_named(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "run").write_text("a file")
    assert cli(arguments(data, "--epochs", "1")) == ExitCode.ERROR
    assert "cannot create the folder" in capsys.readouterr().err
    assert (data / "run").read_text() == "a file"


def test_settings_that_change_the_losses_are_refused_unless_requested(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = checksums(trained / "run")
    other = [
        argument for argument in resume_arguments(trained, "--lr", "0.01") if argument != "--allow-changes"
    ]
    assert cli(other) == ExitCode.ERROR
    error = capsys.readouterr().err
    assert "was trained with steps: 1, now 3; lr: 0.0005, now 0.01: resuming would not" in error
    assert checksums(trained / "run") == before
    assert cli([*other, "--allow-changes"]) == ExitCode.OK
    assert "resuming with changed settings: steps: 1, now 3; lr: 0.0005, now 0.01" in capsys.readouterr().err
    starts = json.loads((trained / "run" / "environment.json").read_text())["starts"]
    assert starts[1]["changed"][:2] == ["steps: 1, now 3", "lr: 0.0005, now 0.01"]


def test_a_learning_rate_of_a_million_stops_the_run_and_keeps_the_checkpoints(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = checksums(trained / "run")
    assert cli(resume_arguments(trained, "--lr", "1e6", "--epochs", "300", "--warmup", "0")) == ExitCode.ERROR
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: the loss or a gradient is not finite at step ")
    assert "lower the learning rate (1000000.0)" in error
    after = checksums(trained / "run")
    assert after["model/open_clip_model.safetensors"] == before["model/open_clip_model.safetensors"]
    assert read_checkpoint(latest_checkpoint(trained / "run") or "")["step"] >= 1
    assert "Stopped: the loss" in (trained / "run" / "report.html").read_text()


@pytest.mark.skipif(os.name != "posix", reason="limits on the size of files are POSIX")
def test_a_full_disk_keeps_earlier_checkpoints(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import resource

    before, limits = checksums(trained / "run"), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
    try:
        assert cli(resume_arguments(trained)) == ExitCode.ERROR
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert "epoch_2.pt could not be written: File too large" in error
    assert without_metrics(checksums(trained / "run")) == without_metrics(before)
    assert cli(resume_arguments(trained)) == ExitCode.OK  # once there is room


def test_a_second_run_in_a_folder_names_the_first(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = checksums(trained / "run")
    with RunDir(trained / "run"):
        assert cli(resume_arguments(trained)) == ExitCode.ERROR
    error = capsys.readouterr().err
    assert f"another run is writing to {trained / 'run'} (process {os.getpid()} on " in error
    assert checksums(trained / "run") == before


@pytest.mark.parametrize("spoil", ["width", "layers"])
def test_a_checkpoint_of_another_model_is_refused(
    trained: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str], spoil: str
) -> None:
    other = write_colours(tmp_path_factory.mktemp("other"))
    text = (other / "model.json").read_text()
    changes = {"width": ('"width": 32', '"width": 48'), "layers": ('"layers": 1', '"layers": 2')}
    (other / "model.json").write_text(text.replace(*changes[spoil], 1))
    before = checksums(trained / "run")
    resume = ["--resume", str(trained / "run" / "epoch_1.pt"), "--epochs", "2", "--allow-changes"]
    assert cli(arguments(other, *resume)) == ExitCode.ERROR
    error = capsys.readouterr().err
    assert "epoch_1.pt does not fit the model; nothing was loaded" in error
    assert error.count("error: ") == 1
    assert checksums(trained / "run") == before
    assert not list((other / "run").glob("*.pt"))


@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
def test_ctrl_c_twice_stops_at_once_and_keeps_the_last_checkpoint(trained: Path) -> None:
    # a step takes a second or so: the first Ctrl-C waits for its end, the second does not
    slow = ["--grad-accum-steps", "100", "--epochs", "1000", "--checkpoint-every", "1", "--preflight", "off"]
    first = arguments(trained, *slow, "--no-tensorboard", "--out", str(trained / "slow"))
    process, printed = programs.begin(["-m", "oneclip", *first], stream=2)
    with printed:
        for line in printed:
            if line.startswith("step 1/"):
                break
        while latest_checkpoint(trained / "slow") is None:
            assert process.exitcode is None, printed.read()
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGINT)
        time.sleep(0.05)
        os.kill(process.pid, signal.SIGINT)
        error = printed.read()
    process.join()
    assert process.exitcode == ExitCode.INTERRUPTED
    assert "stopped; the last checkpoint" in error
    assert "Traceback" not in error
    assert not list((trained / "slow").glob(".*.tmp"))
    checkpoint = latest_checkpoint(trained / "slow")
    assert checkpoint is not None
    assert cli([*first, "--resume", "auto", "--preflight", "only"]) == ExitCode.OK
