"""Settings of a run: the same names in files, in options and in programs."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from oneclip.cli.app import run as cli
from oneclip.cli.exits import ExitCode
from oneclip.cli.train import configuration
from oneclip.config.schema import DERIVED, from_flat, settings_of
from oneclip.config.toml_file import read_settings, write_settings
from oneclip.errors import ConfigError
from oneclip.train import RunCfg, TrainCfg
from oneclip.train.finetune import FinetuneCfg

NEEDED = {"data": "pairs.csv", "out": "run", "pretrained": "pocket"}


def write(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_field_of_both_configurations_is_a_setting() -> None:
    fields = {f.name for cfg in (RunCfg, TrainCfg) for f in dataclasses.fields(cfg)}
    names = [setting.name for setting in settings_of(RunCfg)]
    assert set(names) == fields - {"train", *DERIVED}
    assert len(names) == len(set(names))
    assert all(setting.group and setting.help for setting in settings_of(RunCfg))


def test_a_file_and_options_make_the_same_run(tmp_path: Path) -> None:
    path = write(tmp_path, 'data = "pairs.csv"\nout = "run"\nmodel = "RN50"\nlr = 1e-3\nbatch_size = 8\n')
    told = {"data": ["pairs.csv"], "out": "run", "model": "RN50", "lr": 1e-3, "batch_size": 8}
    assert configuration(str(path), {}).train_cfg(10) == configuration(None, told).train_cfg(10)
    assert from_flat(RunCfg, read_settings(path, RunCfg)).batch_size == 8


def test_options_go_before_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, 'data = "pairs.csv"\nout = "run"\nmodel = "RN50"\nepochs = 3\nlr = 1.0\n')
    cfg = configuration(str(path), {"lr": 0.5, "steps": 7})
    assert (cfg.train["lr"], cfg.steps, cfg.epochs) == (0.5, 7, None)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"data": ("a.csv", "b.csv"), "train": {"lr": 3e-4, "clip_norm": None, "precision": "bf16"}},
        {"images": 'a "quoted"\\path\nภาพ\x7f', "separator": "\t", "tensorboard": False, "steps": 12},
    ],
)
def test_what_is_written_is_read_as_the_same_run(tmp_path: Path, values: dict[str, Any]) -> None:
    cfg = RunCfg(**(NEEDED | values))
    again = from_flat(RunCfg, read_settings(write(tmp_path, write_settings(cfg)), RunCfg))
    assert again.train_cfg(10) == cfg.train_cfg(10)
    assert dataclasses.replace(again, train={}) == dataclasses.replace(cfg, train={})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batchsize = 3", "run.toml: there is no setting 'batchsize'; did you mean batch_size?"),
        ("wieght_decay = 0.1", "did you mean weight_decay?"),
        ("steps_per_epoch = 3", "no setting 'steps_per_epoch'"),
        ("train = 3", "no setting 'train'"),
        ("[model]\nname = 1", r"has a table \[model\]"),
        ("lr = ", "run.toml is no TOML"),
        ('lr = "high"', "lr is 'high'; float was expected"),
        ("batch_size = 1.5", "batch_size is 1.5"),
        ("lr = -1.0", "lr is -1.0; expected 0 or more"),
        ("epochs = 3\nsteps = 5", "epochs is 3 and steps is 5"),
        ('preflight = "maybe"', "preflight is 'maybe'; expected on, off, only"),
        ('separator = ";;"', "expected one character"),
        ("data = []", "data is"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=message):
        from_flat(RunCfg, NEEDED | read_settings(path, RunCfg))


def test_a_file_that_is_missing_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["train", str(tmp_path / "no.toml")]) == ExitCode.ERROR
    assert "no.toml cannot be read" in capsys.readouterr().err


def test_a_value_that_is_refused_is_a_usage_error_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    needed = ["--data", "pairs.csv", "--out", "run", "--pretrained", "pocket"]
    assert cli(["train", *needed, "--epochs", "0"]) == ExitCode.USAGE
    assert "epochs is 0; expected at least 1" in capsys.readouterr().err
    assert cli(["train", *needed, "--clip-norm", "much"]) == ExitCode.USAGE
    assert "'--clip-norm'" in capsys.readouterr().err


def test_the_length_is_counted_from_the_data_unless_it_is_said() -> None:
    counted = RunCfg(**NEEDED, epochs=3).train_cfg(20 * 64)
    assert (counted.steps, counted.warmup, counted.evaluate_every) == (60, 6, 20)
    said = RunCfg(**NEEDED, steps=50, warmup=0, evaluate_every=7).train_cfg(20 * 64)
    assert (said.steps, said.warmup, said.evaluate_every, said.steps_per_epoch) == (50, 0, 7, 20)


@pytest.mark.parametrize(
    ("rows", "batch", "accumulate", "epochs", "steps", "ends"),
    [
        (96, 32, 2, 10, 15, {2: 1, 3: 2, 4: 3, 6: 4, 15: 10}),  # 960 pairs in steps of 64
        (100, 64, 1, 10, 16, {2: 1, 3: 2, 16: 10}),  # 1,000 pairs
        (130, 64, 1, 1, 2, {1: 0, 2: 1}),
    ],
)
def test_epochs_are_as_many_pairs_as_they_say(
    rows: int, batch: int, accumulate: int, epochs: int, steps: int, ends: dict[int, int]
) -> None:
    cfg = RunCfg(**NEEDED, epochs=epochs, batch_size=batch, train={"accumulate": accumulate}).train_cfg(rows)
    assert cfg.steps == steps
    assert abs(steps * batch * accumulate - epochs * rows) <= batch * accumulate / 2
    assert {step: cfg.epoch_ending(step) for step in ends} == ends


def test_a_fine_tuning_has_every_setting_of_a_training() -> None:
    named = {kind: {setting.name for setting in settings_of(kind)} for kind in (RunCfg, FinetuneCfg)}
    assert named[RunCfg] <= named[FinetuneCfg]
    told = {"by_picture": True, "wandb": "project", "preflight": "off", "tensorboard": False, "threads": 2}
    cfg = FinetuneCfg(model="pocket", data=("a.csv@2", "b.csv@1"), out="run", eval_data="c.csv", **told)
    run = cfg.run_cfg()
    assert {name: getattr(run, name) for name in told} == told
    assert run.sources == ("a.csv@2", "b.csv@1")
    assert (run.model, run.pretrained) == (None, "pocket")
    assert FinetuneCfg(model="RN50", pretrained="yfcc15m", data="a.csv", out="run").run_cfg().model == "RN50"


def test_values_that_belong_together_are_given_together() -> None:
    assert configuration(None, NEEDED | {"crop_scale": (0.5, 1.0)}).crop_scale == (0.5, 1.0)
    with pytest.raises(typer.BadParameter, match="crop_scale is"):
        configuration(None, NEEDED | {"crop_scale": (0.5,)})


def test_the_settings_need_no_torch() -> None:
    code = "import sys, oneclip.cli.train, oneclip.config.toml_file; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_options_of_several_values_take_them_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[RunCfg] = []
    monkeypatch.setattr("oneclip.cli.train.configuration", _stopping(seen, configuration))
    needed = ["train", "--data", "pairs.csv", "--out", "run", "--pretrained", "pocket"]
    cli([*needed, "--crop-scale", "0.5", "1", "--color-jitter", "0.4", "0.4", "0.4", "0.1"])
    cli(needed)
    assert [cfg.crop_scale for cfg in seen] == [(0.5, 1.0), (0.9, 1.0)]
    assert [cfg.color_jitter for cfg in seen] == [(0.4, 0.4, 0.4, 0.1), None]


def _stopping(seen: list[RunCfg], make: Any) -> Any:
    """Make the configuration, keep it, and go no further."""

    def stopping(path: str | None, values: Any) -> RunCfg:
        seen.append(make(path, values))
        raise ConfigError("that is all")

    return stopping
