"""`oneclip train`: from a table and a folder of images to a model for `oneclip.load`."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from six_colours import COLOURS, CONFIG, arguments, logged

import oneclip
from oneclip.cli.app import run as cli
from oneclip.cli.exits import ExitCode
from oneclip.errors import ConfigError, OutputError
from oneclip.train import RunCfg
from oneclip.train.initial_model import read_config
from oneclip.train.run import run as train
from tests import programs


def test_a_model_trained_on_six_colours_classifies_them(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    header, *rows = (data / "pairs.csv").read_text().splitlines()
    (data / "held_out.csv").write_text("\n".join([header, *rows]))
    (data / "pairs.csv").write_text("\n".join([header, *rows * 20]))
    held_out = ["--eval-data", str(data / "held_out.csv"), "--lr", "3e-3"]
    assert cli(arguments(data, "--epochs", "4", *held_out)) == ExitCode.OK
    assert "image_retrieval_recall@1: 1" in capsys.readouterr().out
    model = oneclip.load(str(data / "run" / "model"), device="cpu")
    labels = [f"something {word}" for word in COLOURS.values()]
    for colour, word in COLOURS.items():
        assert model.classify(data / "pictures" / f"{colour}.png", labels)[0][0] == f"something {word}"
    assert tuple(model.preprocess.cfg.mean) == (0.5, 0.5, 0.5)
    checkpoint = oneclip.load(str(data / "run" / "epoch_4.pt"), device="cpu")
    torch.testing.assert_close(checkpoint.model.state_dict(), model.model.state_dict(), rtol=0, atol=0)


def test_a_run_resumed_from_an_epoch_has_the_losses_of_an_uninterrupted_one(data: Path) -> None:
    assert cli(arguments(data, "--epochs", "6", "--warmup", "0")) == ExitCode.OK
    unbroken = logged(data)
    (data / "run" / "epoch_6.pt").unlink()
    (data / "run" / "epoch_5.pt").unlink()
    assert cli(arguments(data, "--epochs", "6", "--warmup", "0", "--resume", "auto")) == ExitCode.OK
    assert logged(data) == unbroken
    assert logged(data, "step") == [1, 2, 3, 4, 5, 6]


def test_a_folder_with_a_run_is_not_overwritten(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(arguments(data, "--epochs", "1")) == ExitCode.OK
    assert cli(arguments(data, "--epochs", "1")) == ExitCode.ERROR
    assert "already contains a run (epoch_1.pt)" in capsys.readouterr().err


def test_training_starts_from_pretrained_weights(data: Path) -> None:
    assert cli(arguments(data, "--epochs", "1", "--lr", "0")) == ExitCode.OK
    first = data / "run" / "model"
    settings = RunCfg(
        data=data / "pairs.csv",
        out=data / "next",
        images=data / "pictures",
        pretrained=first,
        epochs=1,
        batch_size=6,
        train={"lr": 0.0},
    )
    result = train(settings)
    assert result.model == data / "next" / "model"
    before, after = (oneclip.load(str(path), device="cpu").model for path in (first, result.model))
    torch.testing.assert_close(before.state_dict(), after.state_dict(), rtol=0, atol=0)


def test_broken_images_are_named_at_the_end(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "pictures" / "red.png").write_bytes(b"no picture")
    assert cli(arguments(data, "--epochs", "1")) == ExitCode.SKIPPED
    captured = capsys.readouterr()
    assert "red.png was skipped" in captured.err
    assert str(data / "run" / "model") in captured.out


def test_without_a_model_the_error_names_the_options(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["train", "--data", str(data / "pairs.csv"), "--out", str(data / "run")]) == ExitCode.USAGE
    assert "--model ViT-B-32, --pretrained pocket" in capsys.readouterr().err


def test_a_full_disk_at_the_end_keeps_the_checkpoints(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.torch

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    settings = RunCfg(
        data=data / "pairs.csv",
        out=data / "run",
        images=data / "pictures",
        model=data / "model.json",
        epochs=1,
        batch_size=6,
    )
    with pytest.raises(OutputError, match="No space left"):
        train(settings)
    assert (data / "run" / "epoch_1.pt").exists()
    assert not (data / "run" / "model").exists()


def test_a_configuration_with_an_unknown_key_is_refused(data: Path) -> None:
    (data / "model.json").write_text(json.dumps({**CONFIG["model_cfg"], "embed_dims": 3}))
    with pytest.raises(ConfigError, match="did you mean embed_dim"):
        read_config(data / "model.json")


@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
def test_ctrl_c_prints_how_to_resume(data: Path) -> None:
    process, printed = programs.begin(["-m", "oneclip", *arguments(data, "--epochs", "100000")], stream=2)
    with printed:
        for line in printed:
            if line.startswith("step "):
                os.kill(process.pid, signal.SIGINT)
                break
        error = printed.read()
    process.join()
    assert process.exitcode == ExitCode.INTERRUPTED
    assert "--resume auto" in error
    assert list((data / "run").glob("*.pt"))
