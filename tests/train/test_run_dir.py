"""Files of a run, and its reporters."""

from __future__ import annotations

import json
import os
import re
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from six_colours import arguments, logged

import oneclip
from oneclip.cli.app import run as cli
from oneclip.cli.exits import ExitCode
from oneclip.config.toml_file import read_settings
from oneclip.errors import DataError, MissingExtraError, OutputError, UnknownModelError
from oneclip.html import html_table
from oneclip.installation import install_command
from oneclip.train import RunCfg, TrainCfg, TrainingReport, World
from oneclip.train.initial_model import InitialModel
from oneclip.train.reporting.html_page import Section, html_image, render_page
from oneclip.train.reporting.reporters import ReporterGroup, TensorBoard
from oneclip.train.run import FinishedTraining, run
from oneclip.train.run_dir import RunDir


def cfg_of(data: Path, **changes: Any) -> RunCfg:
    settings = {
        "data": data / "pairs.csv",
        "images": data / "pictures",
        "model": data / "model.json",
        "out": data / "run",
        "epochs": 2,
        "batch_size": 6,
        "train": {"log_every": 1},
    }
    return RunCfg(**(settings | changes))


def report(step: int = 1, loss: float = 0.5) -> TrainingReport:
    return TrainingReport(step, 10, {"loss": loss}, 1e-3, 14.0, 1.0, 100.0, 0.25, 60.0, memory=2**30)


@pytest.mark.draws
def test_a_run_writes_all_its_files_to_its_folder(data: Path) -> None:
    assert cli(arguments(data, "--epochs", "2", "--eval-data", str(data / "pairs.csv"))) == ExitCode.OK
    out = data / "run"
    names = {path.name for path in out.iterdir() if not path.name.startswith(".")}
    files = {"config.toml", "environment.json", "metrics.jsonl", "report.html", "epoch_1.pt", "epoch_2.pt"}
    assert names == files | {"model", "plots", "tensorboard"}
    plots = {path.stem for path in (out / "plots").iterdir()}
    assert {"loss", "learning_rate", "throughput", "logit_scale", "evaluation"} <= plots
    assert logged(data, "memory")[-1] > 10**7
    environment = json.loads((out / "environment.json").read_text())["starts"]
    assert environment[0]["versions"]["torch"] == torch.__version__
    html = (out / "report.html").read_text()
    assert html.count("data:image/png;base64,") == len(plots)
    assert "src=" not in html.replace('src="data:', "")
    assert "All 2 steps are done" in html


def test_the_settings_of_a_run_repeat_it_from_another_folder(
    data: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data)
    relative = ["--data", "pairs.csv", "--images", "pictures", "--model", "model.json", "--out", "run"]
    options = ["--batch-size", "3", "--epochs", "3", "--lr", "1e-3", "--seed", "5", "--log-every", "1"]
    assert cli(["train", *relative, *options, "--max-grad-norm", "none"]) == ExitCode.OK
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    assert cli(["train", str(data / "run" / "config.toml"), "-o", "again"]) == ExitCode.OK
    lines = (elsewhere / "again" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in lines] == logged(data)
    assert len(lines) == 6
    assert read_settings(elsewhere / "again" / "config.toml", RunCfg)["max_grad_norm"] == "none"


def test_a_resumed_run_records_every_start(data: Path) -> None:
    run(cfg_of(data))
    (data / "run" / "epoch_2.pt").unlink()
    run(cfg_of(data, resume="auto"))
    assert len(json.loads((data / "run" / "environment.json").read_text())["starts"]) == 2
    assert logged(data, "step") == [1, 2]


def test_tensorboard_gets_every_metric(data: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(cfg_of(data, eval_data=data / "pairs.csv"))
    events = EventAccumulator(str(data / "run" / "tensorboard"))
    events.Reload()
    assert {"train/loss", "train/lr", "train/logit_scale", "evaluation/loss"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2]
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(logged(data))


def test_repeated_steps_of_a_resumed_run_are_shown_once(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for start, losses in ((0, {1: 0.1, 2: 0.2, 3: 0.3}), (1, {2: 0.25})):
        writer = TensorBoard(tmp_path)
        writer.start(start, 10)
        for step, loss in losses.items():
            writer.update(report(step, loss))
        writer.stop()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    points = [(event.step, round(event.value, 3)) for event in events.Scalars("train/loss")]
    assert points == [(1, 0.1), (2, 0.25)]


class FakeWandb(types.ModuleType):
    """Records its calls."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
        self.runs: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.finished = 0

    def init(self, **options: Any) -> FakeWandb:
        self.runs.append(options)
        return self

    def log(self, values: dict[str, float], step: int) -> None:
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished += 1


def test_weights_and_biases_gets_settings_and_metrics_of_one_run(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    run(cfg_of(data, wandb="colours", eval_data=data / "pairs.csv"))
    (data / "run" / "epoch_2.pt").unlink()
    run(cfg_of(data, wandb="colours", resume="auto"))
    first, second = wandb.runs
    assert (first["project"], first["config"]["batch_size"]) == ("colours", 6)
    assert first["id"] == second["id"]
    assert [step for step, values in wandb.logged if "train/loss" in values] == [1, 2, 2]
    assert any("evaluation/loss" in values for _, values in wandb.logged)
    assert wandb.finished == 2


def test_weights_and_biases_raises_if_it_is_not_installed(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch, "wandb")
    with pytest.raises(MissingExtraError, match=re.escape(install_command("wandb"))):
        run(cfg_of(data, wandb="colours"))


def hide(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """Make packages look as if they were not installed."""
    from importlib.util import find_spec

    def find(name: str) -> Any:
        return None if name in packages else find_spec(name)

    for module in ("plots", "reporters"):
        monkeypatch.setattr(f"oneclip.train.reporting.{module}.find_spec", find)


def test_without_the_extras_a_run_reports_what_it_does_not_write(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hide(monkeypatch, "matplotlib", "tensorboard")
    assert cli(arguments(data, "--epochs", "1")) == ExitCode.OK
    printed = capsys.readouterr().err
    assert "plots was not written" in printed
    assert "tensorboard was not written" in printed
    assert printed.count(install_command("train")) == 2
    assert "data:image" not in (data / "run" / "report.html").read_text()


def test_a_reporter_group_calls_every_reporter() -> None:
    class RecordingReporter:
        def __init__(self) -> None:
            self.calls: list[Any] = []

        def start(self, step: int, steps: int) -> None:
            self.calls.append((step, steps))

        def update(self, report: TrainingReport) -> None:
            self.calls.append(report.step)

        def evaluated(self, step: int, results: Any) -> None:
            self.calls.append(dict(results))

        def stop(self) -> None:
            self.calls.append("stop")

    reporters = [RecordingReporter(), RecordingReporter()]
    both = ReporterGroup(reporters)
    both.start(0, 3)
    both.update(report())
    both.evaluated(1, {"loss": 1.0})
    both.note("ignored by reporters without this method")
    both.stop()
    assert reporters[0].calls == reporters[1].calls == [(0, 3), 1, {"loss": 1.0}, "stop"]


def test_hooks_can_change_training_evaluation_model_and_report(data: Path) -> None:
    frozen = []

    def adapt(start: InitialModel) -> None:
        frozen.extend(p for p in start.model.parameters() if p.ndim > 1)
        for parameter in frozen:
            parameter.requires_grad_(False)

    def evaluate(start: InitialModel, cfg: TrainCfg, world: World) -> Any:
        return lambda model: {"trainable": sum(p.requires_grad for p in model.parameters())}

    def at_end(ending: FinishedTraining) -> None:
        ending.state_dict = {name: torch.zeros_like(t) for name, t in ending.state_dict.items()}
        ending.sections.append(Section("Nothing left", html_table([("weights", 0)])))

    result = run(cfg_of(data), adapt=adapt, evaluate=evaluate, at_end=at_end)
    assert frozen
    assert result.outcome.evaluation["trainable"] > 0
    assert result.model is not None
    written = oneclip.load(str(result.model), device="cpu").model.state_dict()
    assert all(not tensor.any() for tensor in written.values())
    assert "<h2>Nothing left</h2>" in (data / "run" / "report.html").read_text()


def test_only_one_run_at_a_time_can_use_a_folder(tmp_path: Path) -> None:
    message = f"another run is writing to .*process {os.getpid()} on"
    with RunDir(tmp_path / "run"), pytest.raises(OutputError, match=message):
        RunDir(tmp_path / "run").__enter__()
    with RunDir(tmp_path / "run"):
        pass


@pytest.mark.parametrize("what", ["data", "model"])
def test_a_run_that_writes_nothing_leaves_no_folder(data: Path, what: str) -> None:
    cfg = replace(cfg_of(data), **{what: data / "nothing.csv"})
    with pytest.raises((DataError, UnknownModelError)):
        run(cfg)
    assert not (data / "run").exists()
    (data / "run").mkdir()
    with pytest.raises((DataError, UnknownModelError)):
        run(cfg)
    assert (data / "run").is_dir()


def test_a_page_escapes_text() -> None:
    html = render_page(
        "<run>", [Section("a & b", html_table([("<script>", 1234, 0.123456)]) + html_image(b"png", '"x"'))]
    )
    assert "<script>" not in html
    assert "&lt;run&gt;" in html
    assert "1,234" in html
    assert "0.1235" in html
    assert 'alt="&quot;x&quot;"' in html
