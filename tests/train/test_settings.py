"""Settings of a run, in files, options and programs."""

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
    given = {"data": ["pairs.csv"], "out": "run", "model": "RN50", "lr": 1e-3, "batch_size": 8}
    assert configuration(str(path), {}).train_cfg(10) == configuration(None, given).train_cfg(10)
    assert from_flat(RunCfg, read_settings(path, RunCfg)).batch_size == 8


def test_options_override_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, 'data = "pairs.csv"\nout = "run"\nmodel = "RN50"\nepochs = 3\nlr = 1.0\n')
    cfg = configuration(str(path), {"lr": 0.5, "steps": 7})
    assert (cfg.train["lr"], cfg.steps, cfg.epochs) == (0.5, 7, None)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"data": ("a.csv", "b.csv"), "train": {"lr": 3e-4, "max_grad_norm": None, "precision": "bf16"}},
        {"images": 'a "quoted"\\path\nภาพ\x7f', "separator": "\t", "tensorboard": False, "steps": 12},
    ],
)
def test_a_written_file_is_read_as_the_same_run(tmp_path: Path, values: dict[str, Any]) -> None:
    cfg = RunCfg(**(NEEDED | values))
    again = from_flat(RunCfg, read_settings(write(tmp_path, write_settings(cfg)), RunCfg))
    assert again.train_cfg(10) == cfg.train_cfg(10)
    assert dataclasses.replace(again, train={}) == dataclasses.replace(cfg, train={})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batchsize = 3", "run.toml: unknown setting 'batchsize'; did you mean batch_size?"),
        ("wieght_decay = 0.1", "did you mean weight_decay?"),
        ("steps_per_epoch = 3", "unknown setting 'steps_per_epoch'"),
        ("train = 3", "unknown setting 'train'"),
        ("[model]\nname = 1", r"has a table \[model\]"),
        ("lr = ", "run.toml is not valid TOML"),
        ('lr = "high"', "lr is 'high'; expected float"),
        ("batch_size = 1.5", "batch_size is 1.5"),
        ("lr = -1.0", "lr is -1.0; expected 0 or more"),
        ("epochs = 3\nsteps = 5", "epochs is 3 and steps is 5"),
        ('preflight = "maybe"', "preflight is 'maybe'; expected on, off, only"),
        ('separator = ";;"', "expected one character"),
        ("data = []", "data is"),
    ],
)
def test_an_invalid_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=message):
        from_flat(RunCfg, NEEDED | read_settings(path, RunCfg))


def test_a_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["train", str(tmp_path / "no.toml")]) == ExitCode.ERROR
    assert "no.toml cannot be read" in capsys.readouterr().err


def test_an_invalid_value_is_a_usage_error_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    needed = ["--data", "pairs.csv", "--out", "run", "--pretrained", "pocket"]
    assert cli(["train", *needed, "--epochs", "0"]) == ExitCode.USAGE
    assert "epochs is 0; expected at least 1" in capsys.readouterr().err
    assert cli(["train", *needed, "--max-grad-norm", "much"]) == ExitCode.USAGE
    assert "'--max-grad-norm': 'much' is not a number" in capsys.readouterr().err
    assert cli(["train", *needed, "--batch-size", "four"]) == ExitCode.USAGE
    assert "'--batch-size': 'four' is not a whole number" in capsys.readouterr().err


def test_the_length_is_computed_from_the_data_unless_it_is_set() -> None:
    computed = RunCfg(**NEEDED, epochs=3).train_cfg(20 * 64)
    assert (computed.steps, computed.warmup, computed.evaluate_every) == (60, 6, 20)
    explicit = RunCfg(**NEEDED, steps=50, warmup=0, evaluate_every=7).train_cfg(20 * 64)
    assert (explicit.steps, explicit.warmup, explicit.evaluate_every, explicit.steps_per_epoch) == (
        50,
        0,
        7,
        20,
    )


@pytest.mark.parametrize(
    ("rows", "batch", "grad_accum_steps", "epochs", "steps", "ends"),
    [
        (96, 32, 2, 10, 15, {2: 1, 3: 2, 4: 3, 6: 4, 15: 10}),  # 960 pairs in steps of 64
        (100, 64, 1, 10, 16, {2: 1, 3: 2, 16: 10}),  # 1,000 pairs
        (130, 64, 1, 1, 2, {1: 0, 2: 1}),
    ],
)
def test_epochs_end_at_the_nearest_step(
    rows: int, batch: int, grad_accum_steps: int, epochs: int, steps: int, ends: dict[int, int]
) -> None:
    cfg = RunCfg(
        **NEEDED, epochs=epochs, batch_size=batch, train={"grad_accum_steps": grad_accum_steps}
    ).train_cfg(rows)
    assert cfg.steps == steps
    assert abs(steps * batch * grad_accum_steps - epochs * rows) <= batch * grad_accum_steps / 2
    assert {step: cfg.epoch_ending(step) for step in ends} == ends


def test_a_fine_tuning_has_every_setting_of_a_training() -> None:
    named = {kind: {setting.name for setting in settings_of(kind)} for kind in (RunCfg, FinetuneCfg)}
    assert named[RunCfg] <= named[FinetuneCfg]
    given = {"by_image": True, "wandb": "project", "preflight": "off", "tensorboard": False, "threads": 2}
    cfg = FinetuneCfg(model="pocket", data=("a.csv@2", "b.csv@1"), out="run", eval_data="c.csv", **given)
    run = cfg.run_cfg()
    assert {name: getattr(run, name) for name in given} == given
    assert run.sources == ("a.csv@2", "b.csv@1")
    assert (run.model, run.pretrained) == (None, "pocket")
    assert FinetuneCfg(model="RN50", pretrained="yfcc15m", data="a.csv", out="run").run_cfg().model == "RN50"


def test_a_range_needs_both_values() -> None:
    assert configuration(None, NEEDED | {"crop_scale": (0.5, 1.0)}).crop_scale == (0.5, 1.0)
    with pytest.raises(typer.BadParameter, match="crop_scale is"):
        configuration(None, NEEDED | {"crop_scale": (0.5,)})


def test_the_settings_need_no_torch() -> None:
    code = "import sys, oneclip.cli.train, oneclip.config.toml_file; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_options_with_several_values_take_them_in_a_row(
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
    """Make the configuration, store it, and stop."""

    def stopping(path: str | None, values: Any) -> RunCfg:
        seen.append(make(path, values))
        raise ConfigError("that is all")

    return stopping
