"""Whatever is wrong with a training is one clear error, and costs nothing of what was there."""

from __future__ import annotations

import hashlib
import json
import os
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
from oneclip.train.run_dir import RunFolder
from tests import programs

KEPT = ("*.pt", "model/*", "metrics.jsonl")


def held(run: Path) -> dict[str, str]:
    """What a run has, by the checksum of each file."""
    paths = sorted(path for pattern in KEPT for path in run.glob(pattern))
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.fixture
def trained(data: Path) -> Path:
    """The data, and a run of one epoch on it that would go on."""
    assert cli(arguments(data, "--epochs", "1", "--no-tensorboard")) == ExitCode.OK
    return data


def goes_on(data: Path, *more: str) -> list[str]:
    longer = ["--epochs", "3", "--allow-changes"]
    return arguments(data, *longer, "--no-tensorboard", "--resume", "auto", *more)


def without_figures(run: dict[str, str]) -> dict[str, str]:
    return {name: checksum for name, checksum in run.items() if name != "metrics.jsonl"}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: (data / "pairs.csv").write_text("filepath,text\nred.png,red\n"), "no column 'caption'"),
        (lambda data: (data / "pairs.csv").write_text("filepath,caption\n"), "has no rows"),
        (lambda data: (data / "pairs.csv").write_text(""), "is empty; expected a header"),
        (lambda data: (data / "pairs.csv").unlink(), "does not exist"),
        (lambda data: (data / "pictures" / "red.png").unlink(), "1 of 6 pictures"),
        (lambda data: (data / "model.json").write_text('{"embed_dim": 8'), "cannot be read as JSON"),
        (lambda data: (data / "model.json").unlink(), "model.json cannot be read"),
        (lambda data: (data / "run" / "epoch_1.pt").write_bytes(b"cut"), "epoch_1.pt is damaged"),
    ],
    ids=["caption column", "no rows", "empty", "no table", "no picture", "broken json", "no json", "damaged"],
)
def test_what_is_wrong_is_one_line_that_names_it_and_nothing_is_lost(
    trained: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], object], message: str
) -> None:
    spoil(trained)
    before = held(trained / "run")
    capsys.readouterr()
    assert cli(goes_on(trained)) == ExitCode.ERROR
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert len(error.strip().splitlines()) == 1
    assert held(trained / "run") == before


def in_shards(data: Path, spoiled: bytes | None = None) -> list[str]:
    """Arguments of a run on two tars, of which the second is perhaps spoiled; a folder of its own."""
    write_tar(data / "part-0.tar", members(8))
    second = write_tar(data / "part-1.tar", members(8, first=8))
    if spoiled is not None:
        second.write_bytes(spoiled)
    return [
        *("train", "--data", str(data / "part-{0..1}.tar"), "--out", str(data / "shards")),
        *("--model", str(data / "model.json"), "--batch-size", "4", "--epochs", "1", "--no-tensorboard"),
    ]


def test_a_tar_cut_short_is_named_or_left_out(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = tar(members(8, first=8))
    assert cli(in_shards(data, whole[: len(whole) // 2])) == ExitCode.ERROR
    error = capsys.readouterr().err
    assert "part-1.tar is cut short or damaged after" in error
    assert "have what is whole used (--skip)" in error
    assert error.startswith("error: ")
    assert len(error.strip().splitlines()) == 1
    assert cli([*in_shards(data, whole[: len(whole) // 2]), "--skip-missing"]) == ExitCode.SKIPPED
    assert "part-1.tar" in capsys.readouterr().err
    assert (data / "shards" / "model").is_dir()


def test_too_many_broken_samples_end_the_run_with_examples(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = members(8) | {f"{n:04}.png": b"no picture" for n in range(6)}
    assert cli([*in_shards(data, tar(broken)), "--max-broken", "0"]) == ExitCode.ERROR
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert "samples are broken" in error
    assert "max_broken" in error


def test_a_folder_that_cannot_be_made_is_named(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "run").write_text("a file")
    assert cli(arguments(data, "--epochs", "1")) == ExitCode.ERROR
    assert "run could not be made" in capsys.readouterr().err
    assert (data / "run").read_text() == "a file"


def test_settings_that_would_change_the_losses_are_refused_and_kept_if_requested(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = held(trained / "run")
    other = [argument for argument in goes_on(trained, "--lr", "0.01") if argument != "--allow-changes"]
    assert cli(other) == ExitCode.ERROR
    error = capsys.readouterr().err
    assert "was trained with steps: 1, now 3; lr: 0.0005, now 0.01: going on would not" in error
    assert held(trained / "run") == before
    assert cli([*other, "--allow-changes"]) == ExitCode.OK
    assert "going on with other settings: steps: 1, now 3; lr: 0.0005, now 0.01" in capsys.readouterr().err
    starts = json.loads((trained / "run" / "environment.json").read_text())["starts"]
    assert starts[1]["changed"][:2] == ["steps: 1, now 3", "lr: 0.0005, now 0.01"]


def test_a_learning_rate_of_a_million_ends_the_run_and_keeps_the_checkpoints(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = held(trained / "run")
    assert cli(goes_on(trained, "--lr", "1e6", "--epochs", "300", "--warmup", "0")) == ExitCode.ERROR
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: the loss or a gradient is no longer a finite number at step ")
    assert "lower the learning rate (1000000.0)" in error
    after = held(trained / "run")
    assert after["model/open_clip_model.safetensors"] == before["model/open_clip_model.safetensors"]
    assert read_checkpoint(latest_checkpoint(trained / "run") or "")["step"] >= 1
    assert "Stopped: the loss" in (trained / "run" / "report.html").read_text()


@pytest.mark.skipif(os.name != "posix", reason="limits on the size of files are POSIX")
def test_a_disk_that_fills_while_saving_leaves_what_was_saved(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import resource

    before, limits = held(trained / "run"), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
    try:
        assert cli(goes_on(trained)) == ExitCode.ERROR
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert "epoch_2.pt could not be written: File too large" in error
    assert without_figures(held(trained / "run")) == without_figures(before)
    assert cli(goes_on(trained)) == ExitCode.OK  # once there is room


def test_a_second_run_in_one_folder_says_who_has_it(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = held(trained / "run")
    with RunFolder(trained / "run"):
        assert cli(goes_on(trained)) == ExitCode.ERROR
    error = capsys.readouterr().err
    assert f"another run is writing to {trained / 'run'} (process {os.getpid()} on " in error
    assert held(trained / "run") == before


@pytest.mark.parametrize("spoil", ["width", "layers"])
def test_a_checkpoint_of_another_model_is_refused(
    trained: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str], spoil: str
) -> None:
    other = write_colours(tmp_path_factory.mktemp("other"))
    text = (other / "model.json").read_text()
    changes = {"width": ('"width": 32', '"width": 48'), "layers": ('"layers": 1', '"layers": 2')}
    (other / "model.json").write_text(text.replace(*changes[spoil], 1))
    before = held(trained / "run")
    resume = ["--resume", str(trained / "run" / "epoch_1.pt"), "--epochs", "2", "--allow-changes"]
    assert cli(arguments(other, *resume)) == ExitCode.ERROR
    error = capsys.readouterr().err
    assert "epoch_1.pt does not fit the model; nothing was loaded" in error
    assert error.count("error: ") == 1
    assert held(trained / "run") == before
    assert not list((other / "run").glob("*.pt"))


@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
def test_ctrl_c_twice_ends_at_once_and_keeps_the_last_checkpoint(trained: Path) -> None:
    # a step takes a second or so: the first Ctrl-C waits for its end, the second does not
    slow = ["--accumulate", "100", "--epochs", "1000", "--checkpoint-every", "1", "--preflight", "off"]
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
