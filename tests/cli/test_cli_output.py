"""Only the command line prints and exits; the library logs."""

import ast
import logging
from pathlib import Path

import pytest
from commandline import Run

from oneclip import encoder

SRC = Path(__file__).resolve().parents[2] / "src"
LIBRARY = sorted(path for path in SRC.rglob("*.py") if "cli" not in path.relative_to(SRC).parts)
FORBIDDEN = {"print", "exit", "quit", "sys.exit", "sys.stdout.write", "sys.stderr.write", "warnings.warn"}


def name_of(function: ast.expr) -> str:
    """Return a called name such as "sys.exit"."""
    return ast.unparse(function) if isinstance(function, (ast.Name, ast.Attribute)) else ""


def forbidden_calls(path: Path) -> set[str]:
    """Return what a library module calls or raises that only the command line may."""
    allowed = set() if path.relative_to(SRC).parts[0] == "oneclip" else {"warnings.warn"}  # as published
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    calls = {name_of(node.func) for node in nodes if isinstance(node, ast.Call)}
    exits = {"SystemExit"} & {node.id for node in nodes if isinstance(node, ast.Name)}
    return calls & (FORBIDDEN - allowed) | exits


def test_only_the_command_line_prints_and_exits() -> None:
    found = {str(path.relative_to(SRC)): forbidden_calls(path) for path in LIBRARY}
    assert len(found) > 200
    assert {path: calls for path, calls in found.items() if calls} == {}


def test_log_messages_of_the_library_are_notes_on_stderr(
    run: Run, images: Path, monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    load = encoder.load

    def load_with_warning(*arguments: object, **options: object) -> object:
        logging.getLogger("oneclip").warning("a message with %d value", 1)
        return load(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("oneclip.encoder.load", load_with_warning)
    code, _, err = run("classify", images / "cat.png", "-l", "a", "-l", "b", "--model", model)
    assert (code, err) == (0, "note: a message with 1 value\n")
