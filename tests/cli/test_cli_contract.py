"""Rules for all commands: exit codes, stdout and stderr, help, and errors without tracebacks."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from commandline import Run

import oneclip
from oneclip.cli.app import app
from oneclip.cli.exits import ExitCode, escape_control_characters

DOCS = Path(__file__).resolve().parents[2] / "docs" / "cli.md"
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def test_the_list_of_commands() -> None:
    assert list(COMMANDS) == [
        *("classify", "explain", "caption", "embed", "search", "index", "duplicates", "sort"),
        *("models", "pull", "inspect", "convert", "export", "evaluate", "probe", "finetune", "train"),
        *("doctor", "serve"),
    ]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_help_with_an_example(run: Run, name: str) -> None:
    code, out, err = run(name, "--help")
    assert (code, err) == (0, "")
    assert re.search(rf"Examples?:\n +oneclip {name} ?", out)
    assert run(name, "-h").out == out


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_and_each_of_its_options_are_documented(name: str) -> None:
    docs = DOCS.read_text(encoding="utf-8")
    _, found, section = docs.partition(f"## `oneclip {name}`")
    assert found, f"docs/cli.md has no section on {name}"
    shared = docs.partition("## `oneclip classify`")[0]
    for parameter in COMMANDS[name].params:
        for option in (o for o in parameter.opts if o.startswith("--")):
            assert f"`{option}" in section.partition("\n## ")[0] + shared, f"{option} of {name}"


def test_every_example_of_the_help_names_options_that_exist() -> None:
    for name, command in COMMANDS.items():
        known = {option for parameter in command.params for option in parameter.opts}
        for line in re.findall(rf"oneclip {name} .*", command.help or ""):
            used = set(re.findall(r" (--?[a-z][\w-]*)", re.sub(r'"[^"]*"', "", line)))
            assert used <= known, line


def test_the_documented_exit_codes_are_those_of_the_program() -> None:
    documented = re.findall(r"^\| (\d+) \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    assert [int(code) for code in documented] == [int(code) for code in ExitCode]


MAX_MODULES = 260  # that the help may import: typer, click, their dependencies, and our own


def test_help_loads_no_torch_and_not_much_else() -> None:
    code = (
        "import sys\nbefore = len(sys.modules)\nfrom oneclip.cli.app import run\nassert run(['--help']) == 0\n"
        "print(*{'torch', 'numpy', 'PIL'} & set(sys.modules), len(sys.modules) - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "classify" in done.stdout
    heavy = done.stdout.splitlines()[-1].split()
    assert len(heavy) == 1, heavy
    assert int(heavy[0]) < MAX_MODULES  # instead of seconds, which depend on the machine


def test_help_shows_whole_summaries_and_no_python_types(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    summaries = run("--help").out.partition("\nCommands:\n")[2].splitlines()
    assert len([line for line in summaries if line.strip()]) == len(COMMANDS)  # one line each
    assert "..." not in "".join(summaries)
    for name in COMMANDS:
        text = run(name, "--help").out
        assert not re.search(r"<(list|str|path|int|float)\b", text), name


@pytest.mark.parametrize("name", ["evaluate", "inspect", "convert", "export", "pull", "finetune"])
def test_a_model_is_an_argument_or_an_option(name: str) -> None:
    options = {option for parameter in COMMANDS[name].params for option in parameter.opts}
    assert {"--model", "-m"} <= options
    if name in ("convert", "export", "pull", "finetune"):
        assert {"--out", "-o"} <= options


UNKNOWN = [
    "evaluate nosuch --data pairs.csv",
    "evaluate -m nosuch --data pairs.csv",
    "inspect -m nosuch",
    "convert -m nosuch -o x.pt --to openai",
    "convert nosuch x.pt --to openai",
    "export nosuch folder",
    "export -m nosuch -o folder",
    "pull -m nosuch",
    "finetune -m nosuch pairs.csv -o tuned",
    "finetune nosuch pairs.csv -o tuned",
    "train --data pairs.csv --model nosuch --out run",
    "train --data pairs.csv --pretrained nosuch --out run",
    "classify cat.png -l a -l b -m nosuch",
    "embed cat.png -o x.npz -m nosuch",
    "serve -m nosuch",
]


def test_an_unknown_model_is_one_line_before_torch_is_imported(images: Path) -> None:
    (images / "cat.png").rename("cat.png")
    code = (
        "import sys\nsys.modules['torch'] = None  # importing it raises\nfrom oneclip.cli.app import run\n"
        f"print(*[run(line.split()) for line in {UNKNOWN}])"
    )
    environment = os.environ | {"ONECLIP_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment
    )
    lines = [line for line in done.stderr.splitlines() if not line.startswith(("downloading ", "copying "))]
    assert len(lines) == len(UNKNOWN), done.stderr
    for command, line in zip(UNKNOWN, lines, strict=True):
        assert line.startswith("error: 'nosuch' is not a known "), (command, line)
    assert done.stdout.split() == ["1"] * len(UNKNOWN)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "ViT-B/32", "--data", "nowhere.csv"], "nowhere.csv"),
        (["classify", "nowhere.png", "-l", "a", "-l", "b", "-m", "ViT-B/32"], "nowhere.png"),
        (["caption", "nowhere.png"], "nowhere.png"),
        (["embed", "nowhere.png", "-o", "x.npz", "-m", "ViT-B/32"], "nowhere.png"),
        (["convert", "ViT-B/32", "x", "--to", "openai"], "its name must end in .pt"),
    ],
)
def test_nothing_is_downloaded_for_an_invalid_command(
    run: Run, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def download(*arguments: object, **options: object) -> None:
        raise AssertionError("it was downloaded")

    for name in ("ONECLIP_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("oneclip.hub.fetch_weights", download)
    code, _, err = run(*arguments)
    assert code == 1
    assert message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "a", "-m", "b"], "two models given, a and --model b"),
        (["evaluate", "--data", "x.csv"], "no model given: oneclip evaluate MODEL... --data DATA"),
        (["convert", "a", "--to", "openai"], "expected a model and a target"),
        (["convert", "a", "b", "-o", "c", "--to", "openai"], "expected a model and a target"),
        (["finetune", "-m", "pocket", "-o", "out"], "DATA is missing: oneclip finetune MODEL DATA -o FOLDER"),
        (["pull"], "no model given: oneclip pull MODEL"),
    ],
)
def test_a_model_given_twice_or_not_at_all(run: Run, arguments: list[str], message: str) -> None:
    code, _, err = run(*arguments)
    assert code == 2
    assert message in err


def test_bare_and_version(run: Run) -> None:
    assert run().out == run("--help").out
    assert run("--version") == (0, f"oneclip {oneclip.__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["clasify"], "classify"),
        (["classify", "a.png", "--labl", "x"], "--label"),
        (["classify"], "IMAGE"),
        (["classify", "a.png"], '--label "a cat"'),
        (["classify", "a.png", "-l", "a", "-l", "b", "--top", "0"], "--top"),
        (["classify", "a.png", "-l", "a", "-l", "b", "--precision", "fp8"], "fp32"),
        (["convert", "a.pt", "b", "--to", "onnx"], "for '--to': 'onnx' is not one of 'transformers', "),
        (["embed", "a.png"], "--out"),
    ],
)
def test_an_invalid_command_prints_one_line_and_exits_with_2(
    run: Run, arguments: list[str], message: str
) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_a_library_error_prints_one_line_and_exits_with_1(run: Run, images: Path) -> None:
    code, out, err = run("classify", images, "-l", "a", "-l", "b", "--model", "ViT-B/23")
    assert (code, out) == (1, "")
    assert err.startswith("error: 'ViT-B/23' is not a known model, file or folder; did you mean ViT-B")
    assert err.count("\n") == 1


@pytest.mark.parametrize("place", [0, 1, 8])
def test_debug_anywhere_shows_the_traceback(run: Run, images: Path, place: int) -> None:
    arguments = ["classify", images, "-l", "a", "-l", "b", "--model", "nope"]
    arguments.insert(place, "--debug")
    code, _, err = run(*arguments)
    assert code == 1
    assert "Traceback (most recent call last)" in err
    assert err.splitlines()[-1].startswith("error: ")


def test_an_unexpected_exception_is_reported_as_a_bug(
    run: Run, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise TypeError("unexpected")

    monkeypatch.setattr("oneclip.encoder.load", fail)
    code, _, err = run("classify", images, "-l", "a", "-l", "b")
    assert code == 1
    assert "bug in oneclip: TypeError: unexpected" in err
    assert "Traceback" not in err


def test_ctrl_c_exits_with_130(run: Run, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("oneclip.encoder.load", stop)
    code, out, err = run("classify", images, "-l", "a", "-l", "b")
    assert (code, out) == (130, "")
    assert err.splitlines()[-1] == "interrupted"


def test_a_closed_pipe_is_not_an_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "oneclip", "models"], stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr
    assert done.returncode == 0


def test_control_characters_in_a_name_do_not_reach_the_terminal(run: Run) -> None:
    code, _, err = run("classify", "evil\x1b[31m\rname.png", "-l", "a", "-l", "b")
    assert code == 1
    assert r"evil\x1b[31m\rname.png" in err
    assert escape_control_characters("Ümläut 🐈\n") == "Ümläut 🐈\n"
