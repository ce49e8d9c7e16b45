"""What a run leaves behind, and who is told of it."""

from __future__ import annotations

import json
import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from six_colours import arguments, logged

import oneclip
from oneclip.cli.app import run as cli
from oneclip.cli.exits import ExitCode
from oneclip.config.toml_file import read_settings
from oneclip.errors import MissingExtraError, OutputError
from oneclip.train import Report, RunCfg, TrainCfg, World
from oneclip.train.initial_model import Start
from oneclip.train.reporting.html_page import Section, page, picture, table
from oneclip.train.reporting.reporters import Reporters, TensorBoard
from oneclip.train.run import Ending, run
from oneclip.train.run_dir import RunFolder


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


def report(step: int = 1, loss: float = 0.5) -> Report:
    return Report(step, 10, {"loss": loss}, 1e-3, 14.0, 1.0, 100.0, 0.25, 60.0, memory=2**30)


@pytest.mark.draws
def test_a_run_leaves_all_of_it_in_its_folder(data: Path) -> None:
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


def test_the_settings_of_a_run_repeat_it_from_anywhere(
    data: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data)
    relative = ["--data", "pairs.csv", "--images", "pictures", "--model", "model.json", "--out", "run"]
    options = ["--batch-size", "3", "--epochs", "3", "--lr", "1e-3", "--seed", "5", "--log-every", "1"]
    assert cli(["train", *relative, *options, "--clip-norm", "none"]) == ExitCode.OK
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    assert cli(["train", str(data / "run" / "config.toml"), "-o", "again"]) == ExitCode.OK
    lines = (elsewhere / "again" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in lines] == logged(data)
    assert len(lines) == 6
    assert read_settings(elsewhere / "again" / "config.toml", RunCfg)["clip_norm"] == "none"


def test_a_run_that_goes_on_says_when_and_where_it_did(data: Path) -> None:
    run(cfg_of(data))
    (data / "run" / "epoch_2.pt").unlink()
    run(cfg_of(data, resume="auto"))
    assert len(json.loads((data / "run" / "environment.json").read_text())["starts"]) == 2
    assert logged(data, "step") == [1, 2]


def test_tensorboard_gets_every_figure(data: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(cfg_of(data, eval_data=data / "pairs.csv"))
    events = EventAccumulator(str(data / "run" / "tensorboard"))
    events.Reload()
    assert {"train/loss", "train/lr", "train/logit_scale", "evaluation/loss"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2]
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(logged(data))


def test_what_a_resumed_run_does_again_is_shown_once(tmp_path: Path) -> None:
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
    """Remembers what it was told."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
        self.runs: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.finished = 0

    def init(self, **told: Any) -> FakeWandb:
        self.runs.append(told)
        return self

    def log(self, values: dict[str, float], step: int) -> None:
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished += 1


def test_weights_and_biases_gets_settings_and_figures_of_one_run(
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


def test_weights_and_biases_that_are_not_installed_are_an_error(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch, "wandb")
    with pytest.raises(MissingExtraError, match=r"oneclip\[wandb\]"):
        run(cfg_of(data, wandb="colours"))


def hide(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """As if they were not installed."""
    from importlib.util import find_spec

    def find(name: str) -> Any:
        return None if name in packages else find_spec(name)

    for module in ("plots", "reporters"):
        monkeypatch.setattr(f"oneclip.train.{module}.find_spec", find)


def test_without_the_extras_a_run_says_what_it_leaves_out(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hide(monkeypatch, "matplotlib", "tensorboard")
    assert cli(arguments(data, "--epochs", "1")) == ExitCode.OK
    told = capsys.readouterr().err
    assert "plots was not written" in told
    assert "tensorboard is not written" in told
    assert told.count("pip install 'oneclip[train]'") == 2
    assert "data:image" not in (data / "run" / "report.html").read_text()


def test_several_reporters_are_told_the_same() -> None:
    class Listener:
        def __init__(self) -> None:
            self.heard: list[Any] = []

        def start(self, step: int, steps: int) -> None:
            self.heard.append((step, steps))

        def update(self, report: Report) -> None:
            self.heard.append(report.step)

        def evaluated(self, step: int, results: Any) -> None:
            self.heard.append(dict(results))

        def stop(self) -> None:
            self.heard.append("stop")

    listeners = [Listener(), Listener()]
    both = Reporters(listeners)
    both.start(0, 3)
    both.update(report())
    both.evaluated(1, {"loss": 1.0})
    both.note("not for everyone")
    both.stop()
    assert listeners[0].heard == listeners[1].heard == [(0, 3), 1, {"loss": 1.0}, "stop"]


def test_the_hooks_change_what_is_trained_evaluated_written_and_reported(data: Path) -> None:
    frozen = []

    def adapt(start: Start) -> None:
        frozen.extend(p for p in start.model.parameters() if p.ndim > 1)
        for parameter in frozen:
            parameter.requires_grad_(False)

    def evaluate(start: Start, cfg: TrainCfg, world: World) -> Any:
        return lambda model: {"trainable": sum(p.requires_grad for p in model.parameters())}

    def at_end(ending: Ending) -> None:
        ending.state_dict = {name: torch.zeros_like(t) for name, t in ending.state_dict.items()}
        ending.sections.append(Section("Nothing left", table([("weights", 0)])))

    result = run(cfg_of(data), adapt=adapt, evaluate=evaluate, at_end=at_end)
    assert frozen
    assert result.outcome.evaluation["trainable"] > 0
    assert result.model is not None
    written = oneclip.load(str(result.model), device="cpu").model.state_dict()
    assert all(not tensor.any() for tensor in written.values())
    assert "<h2>Nothing left</h2>" in (data / "run" / "report.html").read_text()


def test_one_run_at_a_time_has_a_folder(tmp_path: Path) -> None:
    told = f"another run is writing to .*process {os.getpid()} on"
    with RunFolder(tmp_path / "run"), pytest.raises(OutputError, match=told):
        RunFolder(tmp_path / "run").__enter__()
    with RunFolder(tmp_path / "run"):
        pass


def test_a_page_shows_text_as_text() -> None:
    html = page("<run>", [Section("a & b", table([("<script>", 1234, 0.123456)]) + picture(b"png", '"x"'))])
    assert "<script>" not in html
    assert "&lt;run&gt;" in html
    assert "1,234" in html
    assert "0.1235" in html
    assert 'alt="&quot;x&quot;"' in html
