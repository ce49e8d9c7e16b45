"""`oneclip evaluate` as a shell command."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from commandline import Run

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def table(images: Path) -> Path:
    """The example images and their captions, in the current folder."""
    shutil.copy(EXAMPLES / "captions.csv", "captions.csv")
    return Path("captions.csv")


def test_a_table_is_searched_both_ways(run: Run, model: Path, table: Path) -> None:
    result = run("evaluate", model, "--data", table)
    assert result.code == 0, result.err
    assert "captions.csv, 8 images" in result.out
    assert "image to text recall@5" in result.out


def test_a_folder_of_classes_is_classified_and_printed_as_json(run: Run, model: Path, images: Path) -> None:
    for name in ("cat", "tree"):
        Path("classes", name).mkdir(parents=True)
        shutil.copy(images / f"{name}.png", Path("classes", name))
    result = run("evaluate", model, "--data", "classes", "--templates", "an image of a {}", "--json")
    assert result.code == 0, result.err
    answer = json.loads(result.out)
    assert (answer["data"], answer["images"], answer["skipped"]) == ("classes", 2, [])
    assert set(answer["per_class"]) == {"cat", "tree"}
    assert set(answer["results"]) == {"acc1", "mean_per_class_recall"}


def test_an_unreadable_image_is_counted_and_named(run: Run, model: Path, table: Path) -> None:
    Path("images/cat.png").write_bytes(b"not an image")
    result = run("evaluate", model, "--data", table, "--json")
    assert result.code == 3
    answer = json.loads(result.out)
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
    assert json.loads(result.out)["images"] == 7


@pytest.mark.parametrize(
    ("arguments", "code", "found"),
    [
        (["--data", "nowhere"], 1, "nowhere does not exist; expected a table"),
        (["--data", "captions.csv", "--caption-column", "captoin"], 1, "has no column 'captoin'"),
        (["--data", "captions.csv", "--templates", "nothing"], 1, "templates is 'nothing'; expected"),
        (["--data", "captions.csv", "--templates", "prompts.txt"], 1, "prompts.txt has 'no place'; expected"),
        (["--data", "captions.csv", "--separator", "ab"], 2, "one character"),
        (["--data", "images"], 1, "has 0 folders"),
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
