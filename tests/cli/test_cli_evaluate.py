"""`oneclip evaluate` as a shell command."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from commandline import Result, Run
from small_datasets import make_classes, make_wds
from tiny import write_tiny_model

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def table(images: Path) -> Path:
    """The example images and their captions, in the current folder."""
    shutil.copy(EXAMPLES / "captions.csv", "captions.csv")
    return Path("captions.csv")


@pytest.fixture(scope="session")
def second_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny model with other random weights."""
    return write_tiny_model(tmp_path_factory.mktemp("second") / "second.safetensors", seed=1)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change to a temporary folder, with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ONECLIP_CACHE", str(tmp_path / "cache"))


def evaluated(result: Result) -> list[dict[str, Any]]:
    """Return the results that a command printed as JSON."""
    assert result.code in (0, 3), result.err
    found: list[dict[str, Any]] = json.loads(result.out)["results"]
    return found


def test_a_table_is_searched_both_ways(run: Run, model: Path, table: Path) -> None:
    result = run("evaluate", model, "--data", table)
    assert result.code == 0, result.err
    assert "captions, 8 images" in result.out
    assert "text retrieval recall@5" in result.out


def test_a_folder_of_classes_is_classified_and_printed_as_json(run: Run, model: Path) -> None:
    make_classes(Path("things"), classes=("red", "blue"), per_class=2)
    result = run("evaluate", model, "--data", "things", "--templates", "an image of a {}", "--json")
    (answer,) = evaluated(result)
    assert (answer["dataset"], answer["task"]) == ("things", "zeroshot_classification")
    assert (answer["images"], answer["skipped"], answer["metrics"]["acc5"]) == (4, [], None)
    assert set(answer["per_class"]) == {"red", "blue"}
    assert answer["made_by"]["templates"] == ["an image of a {}"]


def test_several_models_and_data_sets_become_one_table(
    run: Run, model: Path, second_model: Path, table: Path
) -> None:
    make_classes(Path("things"), per_class=2)
    make_classes(Path("more"), per_class=2)
    result = run("evaluate", model, second_model, "--data", "things", "more", table, "--compare")
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[0].split() == ["data", "task", "metric", str(model), str(second_model)]
    assert [line.split("  ")[0] for line in lines[1:5]] == ["things", "more", "captions", "mean of 2"]
    assert len([line for line in lines if f"{second_model} − {model}" in line]) == 3


def test_a_comparison_is_the_paired_difference(run: Run, model: Path, second_model: Path) -> None:
    make_classes(Path("things"))
    result = run("evaluate", model, second_model, "--data", "things", "--compare", "--json")
    first, second = evaluated(result)
    (comparison,) = json.loads(result.out)["comparisons"]
    assert comparison["models"] == [str(model), str(second_model)]
    expected = second["metrics"]["acc1"] - first["metrics"]["acc1"]
    assert comparison["difference"] == pytest.approx(expected)


def test_results_are_written_skipped_when_finished_and_built_into_one_table(run: Run, model: Path) -> None:
    make_wds(Path("wds_things"))
    arguments = ("evaluate", model, "--data", "wds_things", "--out", "results")
    first = run(*arguments)
    assert first.code == 0, first.err
    assert Path("results", "report.html").stat().st_size > 1000
    again = run(*arguments)
    assert "read from the result file" in again.err
    assert again.out == first.out
    assert run("evaluate", "build", "results", "--out", "all.csv").err == "wrote 1 result to all.csv\n"
    header, row = Path("all.csv").read_text().splitlines()
    assert header.startswith("dataset,model,pretrained,task,language,acc1,")
    assert row.startswith(f"wds/things,{model},,zeroshot_classification,en,")


def test_a_suite_goes_on_after_a_data_set_that_fails(run: Run, model: Path) -> None:
    make_classes(Path("things"))
    result = run("evaluate", model, "--data", "nowhere", "--data", "things", "--json")
    assert result.code == 3
    assert [one["dataset"] for one in evaluated(result)] == ["things"]
    assert [one["data"] for one in json.loads(result.out)["failed"]] == ["nowhere"]
    assert "error: nowhere was not evaluated: nowhere does not exist" in result.err


def test_a_task_that_does_not_fit_does_not_stop_the_others(run: Run, model: Path, table: Path) -> None:
    result = run("evaluate", model, "--data", table, "--task", "auto", "--task", "few-shot", "--json")
    assert result.code == 3
    assert [one["task"] for one in evaluated(result)] == ["zeroshot_retrieval"]
    assert [one["data"] for one in json.loads(result.out)["failed"]] == ["captions, few-shot"]


def test_an_unreadable_image_is_counted_and_named(run: Run, model: Path, table: Path) -> None:
    Path("images/cat.png").write_bytes(b"not an image")
    result = run("evaluate", model, "--data", table, "--json")
    assert result.code == 3
    (answer,) = evaluated(result)
    assert answer["images"] == 7
    assert [one["path"] for one in answer["skipped"]] == ["images/cat.png"]
    assert "cat.png" in result.err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
def test_a_pipe_named_by_a_table_is_skipped_as_a_pipe(run: Run, model: Path, table: Path) -> None:
    Path("images/cat.png").unlink()
    os.mkfifo("images/cat.png")
    result = run("evaluate", model, "--data", table, "--skip")
    assert (result.code, result.err) == (3, "skipped images/cat.png: a pipe; expected a regular file\n")


def test_a_missing_image_is_an_error_unless_skipped(run: Run, model: Path, table: Path) -> None:
    Path("images/cat.png").unlink()
    assert run("evaluate", model, "--data", table).code == 1
    result = run("evaluate", model, "--data", table, "--skip", "--json")
    assert result.code == 3
    assert evaluated(result)[0]["images"] == 7


@pytest.mark.parametrize(
    ("arguments", "code", "found"),
    [
        (["--data", "nowhere"], 1, "nowhere does not exist; expected a folder of classes, a table"),
        (["--data", "captions.csv", "--caption-column", "captoin"], 1, "has no column 'captoin'"),
        (["--data", "captions.csv", "--templates", "nothing"], 1, "templates is 'nothing'; expected"),
        (["--data", "captions.csv", "--templates", "prompts.txt"], 1, "prompts.txt has 'no place'; expected"),
        (["--data", "captions.csv", "--separator", "ab"], 2, "one character"),
        (["--data", "images"], 1, "images has no data set; expected a folder of classes"),
        (["--data", "captions.csv", "--task", "zero"], 1, "unknown task 'zero'; expected auto, zero-shot"),
        (["--data", "captions.csv", "--task", "linear-probe"], 1, "has captions, and the task linear-probe"),
        (
            ["--data", "captions.csv", "--task", "few-shot", "--compat"],
            1,
            "few-shot learning has no counterpart",
        ),
        (["--data", "captions.csv", "--shots", "1,x"], 1, "--shots is '1,x'; expected whole numbers"),
        (
            ["--data", "captions.csv", "--report", "no/r.html"],
            1,
            "no/r.html cannot be written: there is no folder",
        ),
        (
            ["--data", "captions.csv", "--out", "captions.csv/x"],
            1,
            "the folder captions.csv/x cannot be created",
        ),
        (["--data", "captions.csv", "--root", "."], 2, "--root is only for --suite"),
        (["--suite", "vtab++"], 1, "'vtab++' is not a suite; did you mean vtab+"),
        ([], 2, "no data given: oneclip evaluate MODEL... --data DATA"),
    ],
)
def test_what_cannot_be_evaluated_is_one_clear_error(
    run: Run, model: Path, table: Path, arguments: list[str], code: int, found: str
) -> None:
    Path("prompts.txt").write_text("a photo of a {}\nno place\n")
    result = run("evaluate", model, *arguments)
    assert result.code == code
    assert len(result.err.strip().splitlines()) == 1
    assert found in result.err


def test_build_goes_on_after_files_that_are_not_results(run: Run, model: Path) -> None:
    make_classes(Path("things"), per_class=1)
    assert run("evaluate", model, "--data", "things", "--out", "results").code == 0
    Path("results/a.json").write_bytes(b"\xff")
    Path("results/b.json").write_text("{}")
    result = run("evaluate", "build", "results", "--out", "all.csv")
    assert result.code == 3
    assert result.err.splitlines() == [
        "skipped results/a.json: not a result: it is not JSON",
        "skipped results/b.json: not a result: it has no 'metrics'",
        "wrote 1 result to all.csv",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "the embeddings so far are kept, so the same command goes on from there"),
        (("--cache", "none", "--out", "results"), "the finished results in results are kept"),
        (("--cache", "none"), "nothing is kept"),
    ],
)
def test_an_interrupted_run_says_what_is_kept(
    run: Run, model: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    make_classes(Path("things"), per_class=1)
    monkeypatch.setattr("oneclip.evaluate.run.encode_split", interrupt)
    result = run("evaluate", model, "--data", "things", *arguments)
    assert result.code == 130
    assert f"interrupted; {message}" in result.err
    assert not Path("results/details").exists()
