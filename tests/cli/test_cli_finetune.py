"""`oneclip finetune` as a shell command."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from commandline import Run
from tars import half_jpeg
from tiny import picture

pytestmark = pytest.mark.usefixtures("undrawn")
SHORT = ("--epochs", "1", "--points", "3", "--batch-size", "8", "--device", "cpu")


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twenty images and their captions, in the current folder."""
    monkeypatch.chdir(tmp_path)
    for i in range(20):
        picture(i).save(f"{i}.png")
    rows = "".join(f"{i}.png,squares of kind {i}\n" for i in range(20))
    Path("pairs.csv").write_text(f"filepath,caption\n{rows}")
    return Path("pairs.csv")


def test_the_last_lines_are_gained_and_forgotten(run: Run, model: Path, table: Path) -> None:
    result = run("finetune", model, table, "-o", "out", "--reference", table, *SHORT)
    assert result.code == 0, result.err
    *_, gained, forgotten = result.out.splitlines()
    assert gained.startswith("gained: held_out.csv, mean recall@1 ")
    assert forgotten.startswith("forgotten: pairs.csv, mean recall@1 ")
    assert run("evaluate", "out/model", "--data", table).code == 0


def test_last_alone_selects_the_method(run: Run, model: Path, table: Path) -> None:
    result = run("finetune", model, table, "-o", "out", "--reference", "none", "--last", "1", *SHORT)
    assert result.code == 0, result.err


def test_settings_of_the_training_may_be_set(run: Run, model: Path, table: Path) -> None:
    arguments = ("--log-every", "1", "--weight-decay", "0.5", "--max-grad-norm", "none")
    result = run("finetune", model, table, "-o", "out", "--reference", "none", *SHORT, *arguments)
    assert result.code == 0, result.err
    text = Path("out/config.toml").read_text()
    assert "log_every = 1\n" in text
    assert "weight_decay = 0.5\n" in text


def test_the_requested_alpha_is_written(run: Run, model: Path, table: Path) -> None:
    result = run("finetune", model, table, "-o", "out", "--reference", "none", "--alpha", "0.25", *SHORT)
    assert "(alpha 0.25)" in result.out
    assert [p["alpha"] for p in json.loads(Path("out/wise_ft.json").read_text())["points"]] == [
        0,
        0.25,
        0.5,
        1,
    ]


def test_the_report_is_of_the_weights_that_were_written(run: Run, model: Path, table: Path) -> None:
    result = run("finetune", model, table, "-o", "out", "--reference", "none", "--alpha", "0", *SHORT)
    assert "(alpha 0: unchanged)" in result.out
    found = json.loads(Path("out/wise_ft.json").read_text())
    page = Path("out/report.html").read_text(encoding="utf-8")
    headline, _, rest = page.partition("Last step of the training")
    figure = found["points"][0]["new"][found["new_metric"]]
    assert f'held-out mean recall@1</td><td class="number">{figure:.4g}' in headline
    assert "model/ contains the weights at alpha 0: unchanged." in rest
    assert re.search(r"waiting for data</td><td>[\d.]+ % of the time", rest)
    assert re.search(r"memory</td><td>[\d.]+ GiB", rest)


def test_an_unreadable_image_is_named(run: Run, model: Path, table: Path) -> None:
    Path("3.png").write_bytes(b"not an image")
    result = run(
        "finetune",
        model,
        table,
        "-o",
        "out",
        "--reference",
        "none",
        "--seed",
        "1",
        "--max-bad-fraction",
        "0.2",
        *SHORT,
    )
    assert result.code == 3
    assert "3.png" in result.err
    assert Path("out/model").is_dir()


@pytest.mark.parametrize(("choice", "code"), [("accept", 0), ("refuse", 3)])
def test_a_truncated_image_is_trained_and_evaluated_on_if_accepted(
    run: Run, model: Path, table: Path, choice: str, code: int
) -> None:
    Path("3.png").write_bytes(half_jpeg(3))
    data = (table, "--eval-data", table, "--reference", table)
    result = run("finetune", model, *data, "-o", "out", "--truncated", choice, *SHORT)
    assert result.code == code, result.err
    assert ("3.png" in result.err) == (choice == "refuse")


def test_without_a_terminal_the_reference_is_required(run: Run, model: Path, table: Path) -> None:
    result = run("finetune", model, table, "-o", "out", *SHORT)
    assert result.code == 1
    assert "--reference" in result.err
    assert "a table of images and captions, a folder of classes, or none" in result.err
    assert not Path("out").exists()


def test_on_a_terminal_the_reference_is_asked_for(
    run: Run, model: Path, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr("oneclip.cli.finetune.is_terminal", lambda: True)
    monkeypatch.setattr("typer.prompt", lambda *words, **options: asked.append(words) or "none")
    result = run("finetune", model, table, "-o", "out", *SHORT)
    assert result.code == 0, result.err
    assert len(asked) == 1
    assert "forgotten: not measured" in result.out


@pytest.mark.parametrize(
    ("arguments", "code", "found"),
    [
        (["--method", "lorra"], 2, "lorra"),
        (["--last", "0"], 2, "last is 0; expected at least 1"),
        (["--method", "lit", "--last", "2"], 2, "last is 2 and method is 'lit'"),
        (["--alpha", "middle"], 2, "alpha is 'middle'"),
        (["--warmpu", "3"], 2, "warmup"),
        (["--truncated", "maybe"], 2, "truncated is 'maybe'; expected refuse or accept"),
        (["--seed", "x"], 2, "seed"),
        (["--caption-column", "text"], 1, "has no column 'text'"),
        (["--eval-data", "nowhere"], 1, "nowhere does not exist"),
    ],
)
def test_what_cannot_be_done_is_one_clear_error(
    run: Run, model: Path, table: Path, arguments: list[str], code: int, found: str
) -> None:
    result = run("finetune", model, table, "-o", "out", "--reference", "none", *SHORT, *arguments)
    assert result.code == code
    assert len(result.err.strip().splitlines()) == 1
    assert found in result.err
