"""Examples in the README and the docs work as shown, and everything that they list exists."""

import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from oneclip import zoo
from oneclip.cli.app import run as run_command
from oneclip.evaluate import Retrieval, TaskSuite, load_pocket_heldout
from tests import programs

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OURS = [
    ROOT / "README.md",
    *(
        ROOT / "docs" / name
        for name in (
            "adapters.md",
            "captioning.md",
            "cli.md",
            "data.md",
            "encoder.md",
            "engine.md",
            "evaluate.md",
            "explain.md",
            "finetune.md",
            "formats.md",
            "losses.md",
            "models.md",
            "probe.md",
            "search.md",
            "tokenizers.md",
            "training.md",
        )
    ),
]


def blocks(page: Path, language: str) -> list[str]:
    """Return the code blocks of a page in one language."""
    return re.findall(
        rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


def commands(page: Path) -> list[str]:
    """Return the commands that a page shows after a prompt."""
    return [line[2:] for block in blocks(page, "console") for line in block.splitlines() if line[:2] == "$ "]


def few_of_the_sample() -> TaskSuite:
    """Return a part of the reference task of fine-tuning."""
    whole = load_pocket_heldout()
    parts = [Retrieval(one.name, one.images[:16], one.texts[:16]) for one in whole.tasks]
    return TaskSuite(whole.name, parts)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pocket: Path, undrawn: None) -> Path:
    """Change to a folder like a fresh checkout."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ONECLIP_INDEXES", str(tmp_path / "indexes"))
    monkeypatch.setattr("oneclip.train.finetune.reference_task.load_pocket_heldout", few_of_the_sample)
    return tmp_path


@pytest.mark.parametrize("page", OURS, ids=lambda page: page.name)
def test_the_commands_of_a_page_work(
    page: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in commands(page):
        program, *arguments = shlex.split(command)
        if program == "oneclip":
            assert run_command(arguments) == 0, f"{command}\n{capsys.readouterr().err}"
        elif program == "python":
            monkeypatch.setattr(sys, "argv", arguments)
            runpy.run_path(arguments[0], run_name="__main__")
        elif program == "make":
            assert re.search(rf"^{arguments[0]}:", makefile, re.MULTILINE), command
        else:
            assert [program, arguments[0]] == ["pip", "install"], f"a command that no test runs: {command}"


@pytest.mark.parametrize("page", OURS, ids=lambda page: page.name)
def test_the_python_of_a_page_runs(page: Path, checkout: Path) -> None:
    names: dict[str, object] = {}
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_the_architecture_page_lists_every_folder_and_import_row() -> None:
    make_architecture = runpy.run_path(str(ROOT / "docs" / "make_architecture.py"))
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert make_architecture["with_tables"](page) == page, "run: python docs/make_architecture.py"


def test_files_that_the_architecture_page_names_exist() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    changes = page.split("## To change this, touch these files")[1]
    for name in re.findall(r"`([a-z_/]+/[a-z_]*(?:\.[a-z]+)?)`", changes):
        bases = (ROOT / "src" / "oneclip", ROOT / "src", ROOT)
        assert any((base / name).exists() for base in bases), name


def test_the_index_links_to_every_page() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "index.md" or f"({page.name})" in index, page.name


def test_the_readme_is_short() -> None:
    assert 100 <= len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("name", ["tour", "search"])
def test_a_notebook_runs(checkout: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    if name == "tour":
        pytest.importorskip("matplotlib")
    monkeypatch.setenv("MPLBACKEND", "agg")
    notebook = json.loads((ROOT / "examples" / f"{name}.ipynb").read_text(encoding="utf-8"))
    names: dict[str, object] = {}
    for cell in notebook["cells"]:
        assert not cell.get("outputs"), "clear the outputs before committing"
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)


@pytest.mark.skipif(shutil.which("docker") is None, reason="docker is not installed")
def test_the_dockerfile_builds() -> None:
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        pytest.skip("the docker daemon is not running")
    build = ["docker", "build", "--quiet", str(ROOT)]
    image = subprocess.run(build, capture_output=True, text=True, check=True).stdout.strip()
    done = subprocess.run(
        ["docker", "run", "--rm", image, "--version"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_page_of_models_lists_every_architecture() -> None:
    make_models = runpy.run_path(str(ROOT / "docs" / "make_models.py"))
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    assert make_models["with_tables"](page) == page, "run: python docs/make_models.py"


def test_the_page_of_the_command_lists_every_setting_of_a_training() -> None:
    make_settings = runpy.run_path(str(ROOT / "docs" / "make_settings.py"))
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert make_settings["with_table"](page) == page, "run: python docs/make_settings.py"


def test_every_example_says_how_to_run_it() -> None:
    for program in sorted((ROOT / "examples").glob("*.py")):
        docstring = program.read_text(encoding="utf-8").split('"""')[1]
        assert f"python examples/{program.name}" in docstring, program.name


def test_the_pictures_can_be_drawn_again(tmp_path: Path) -> None:
    from PIL import Image, ImageChops

    done = [sys.executable, str(ROOT / "examples" / "make_images.py"), str(tmp_path)]
    subprocess.run(done, check=True)
    shipped = sorted((ROOT / "examples" / "images").glob("*.png"))
    assert [path.name for path in shipped] == sorted(path.name for path in tmp_path.iterdir())
    for path in shipped:
        difference = ImageChops.difference(Image.open(path), Image.open(tmp_path / path.name))
        assert max(high for _, high in difference.getextrema()) <= 32, path.name


@pytest.mark.skipif(not zoo.pocket_path().is_file(), reason="pocket's weights are not in this checkout")
def test_the_demo_runs_offline(tmp_path: Path) -> None:
    with programs.for_shell() as started:
        command, python = tmp_path / "oneclip", tmp_path / "python"
        command.write_text(f'#!/bin/sh\nexec {started} -m oneclip "$@"\n', encoding="utf-8")
        python.write_text(f'#!/bin/sh\nexec {started} "$@"\n', encoding="utf-8")
        for file in (command, python):
            file.chmod(0o755)
        demo = ["sh", str(ROOT / "examples" / "demo.sh"), str(command)]
        done = subprocess.run(demo, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("cat.png") >= 1


def test_slow_tests_are_listed_by_names_that_exist() -> None:
    listed = runpy.run_path(str(ROOT / "tests" / "conftest.py"))["SLOW"]
    assert listed <= {path.name for path in (ROOT / "tests").rglob("test_*.py")}
