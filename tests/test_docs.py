"""What the README and the docs show works as shown, and what they list is there."""

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
from oneclip.evaluate import Retrieval, Together, pocket_sample

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OURS = [
    ROOT / "README.md",
    *(
        ROOT / "docs" / name
        for name in (
            "captioning.md",
            "cli.md",
            "data.md",
            "encoder.md",
            "engine.md",
            "evaluate.md",
            "finetune.md",
            "formats.md",
            "losses.md",
            "models.md",
            "tokenizers.md",
        )
    ),
]


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    return re.findall(
        rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


def commands(page: Path) -> list[str]:
    """The lines that a page shows after a prompt."""
    return [line[2:] for block in blocks(page, "console") for line in block.splitlines() if line[:2] == "$ "]


def few_of_the_sample() -> Together:
    """Some of what pocket is measured on before and after a fine-tuning."""
    whole = pocket_sample()
    parts = [Retrieval(one.name, one.pictures[:16], one.captions[:16]) for one in whole.tasks]
    return Together(whole.name, parts)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pocket: Path, undrawn: None) -> Path:
    """A folder like a fresh checkout, as the current one."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("oneclip.train.finetune.reference_task.pocket_sample", few_of_the_sample)
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


def test_the_readme_lists_every_file() -> None:
    make_tree = runpy.run_path(str(ROOT / "docs" / "make_tree.py"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert make_tree["with_tree"](readme) == readme, "run: python docs/make_tree.py"


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

    done = [sys.executable, str(ROOT / "examples" / "make_pictures.py"), str(tmp_path)]
    subprocess.run(done, check=True)
    shipped = sorted((ROOT / "examples" / "pictures").glob("*.png"))
    assert [path.name for path in shipped] == sorted(path.name for path in tmp_path.iterdir())
    for path in shipped:
        difference = ImageChops.difference(Image.open(path), Image.open(tmp_path / path.name))
        assert max(high for _, high in difference.getextrema()) <= 32, path.name


@pytest.mark.skipif(not zoo.pocket_path().is_file(), reason="pocket's weights are not in this checkout")
def test_the_demo_runs_offline(tmp_path: Path) -> None:
    command = tmp_path / "oneclip"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m oneclip "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    python = tmp_path / "python"  # no link: an environment is known by where its python lies
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    demo = ["sh", str(ROOT / "examples" / "demo.sh"), str(command)]
    done = subprocess.run(demo, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("cat.png") >= 1
