"""`oneclip serve`: its options, their environment variables, and what is refused before the server listens."""

import re
import socket
from pathlib import Path
from typing import Any

import pytest
from commandline import Run

pytest.importorskip("fastapi", reason="needs the extra oneclip[serve]")

from oneclip.serve.settings import ServeSettings

GIVEN: list[tuple[str, str, dict[str, Any]]] = [
    ("--model", "pocket", {"model": "pocket"}),
    ("--alias", "one two", {"aliases": ("one", "two")}),
    ("--precision", "bf16", {"precision": "bf16"}),
    ("--device", "cpu", {"device": "cpu"}),
    ("--index", "/photos /scans", {"index": ("/photos", "/scans")}),
    ("--host", "localhost", {"host": "localhost"}),
    ("--port", "0", {"port": 0}),
    ("--workers", "2", {"workers": 2}),
    ("--no-page", "1", {"page": False}),
    ("--api-key-file", "keys.txt", {"api_key_file": "keys.txt"}),
    ("--no-auth", "1", {"auth": False}),
    ("--allow-host", "a.example b.example", {"allow_hosts": ("a.example", "b.example")}),
    ("--cors", "https://a.example *", {"cors": ("https://a.example", "*")}),
    ("--allow-urls", "a.example *", {"allow_urls": ("a.example", "*")}),
    ("--max-batch", "8", {"max_batch": 8}),
    ("--max-wait-ms", "2.5", {"max_wait_ms": 2.5}),
    ("--max-queue", "64", {"max_queue": 64}),
    ("--max-body", "64MB", {"max_body": 64_000_000}),
    ("--max-pixels", "1000", {"max_pixels": 1000}),
    ("--timeout", "0.5", {"timeout": 0.5}),
]
FLAGS = ("--no-page", "--no-auth")
LISTS = ("--alias", "--index", "--allow-host", "--cors", "--allow-urls")


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[ServeSettings]:
    """Settings with which the server was called."""
    settings: list[ServeSettings] = []
    monkeypatch.setattr("oneclip.serve.server.serve", lambda given, announce: settings.append(given))
    return settings


def test_without_options_the_settings_are_the_defaults(run: Run, served: list[ServeSettings]) -> None:
    assert run("serve").code == 0
    assert served == [ServeSettings()]


@pytest.mark.parametrize(("option", "value", "expected"), GIVEN, ids=lambda value: str(value)[:20])
def test_an_option_sets_a_field(
    run: Run, served: list[ServeSettings], option: str, value: str, expected: dict[str, Any]
) -> None:
    values = value.split() if option in LISTS else [value]
    arguments = [option] if option in FLAGS else [part for each in values for part in (option, each)]
    assert run("serve", *arguments).code == 0
    assert served == [ServeSettings(**expected)]


@pytest.mark.parametrize(("option", "value", "expected"), GIVEN, ids=lambda value: str(value)[:20])
def test_an_environment_variable_sets_the_same_field(
    run: Run,
    served: list[ServeSettings],
    monkeypatch: pytest.MonkeyPatch,
    option: str,
    value: str,
    expected: dict[str, Any],
) -> None:
    variable = "ONECLIP_SERVE_" + option[2:].upper().replace("-", "_")
    monkeypatch.setenv(variable, value)
    assert run("serve").code == 0
    assert served == [ServeSettings(**expected)]


def test_the_help_names_all_options_and_their_variables(run: Run) -> None:
    text = run("serve", "--help").out
    listed = set(re.findall(r"^ +(?:-\w, )?(--[a-z-]+)", text, re.MULTILINE)) - {"--help"}
    assert {option for option, _, _ in GIVEN} == listed  # so that each is tested above
    variables = re.findall(r"env var: ONECLIP_SERVE_([A-Z_]+)", " ".join(text.split()))
    assert {"--" + name.lower().replace("_", "-") for name in variables} == listed


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("4096", 4096),
        ("32MB", 32_000_000),
        ("32 mb", 32_000_000),
        ("1.5M", 1_500_000),
        ("2KiB", 2048),
        ("1GiB", 2**30),
        ("7B", 7),
    ],
)
def test_a_size_has_a_unit(run: Run, served: list[ServeSettings], size: str, expected: int) -> None:
    assert run("serve", "--max-body", size).code == 0
    assert served[0].max_body == expected


@pytest.mark.parametrize("size", ["", "MB", "-1", "0", "1 TB", "1e6", "32MBs"])
def test_what_is_no_size_is_refused(run: Run, size: str) -> None:
    code, _, err = run("serve", "--max-body", size)
    assert code == 2
    assert "is not a size; expected one such as 32MB" in err


def one_error(run: Run, *arguments: object) -> str:
    """Run the command and return its one line of error."""
    code, out, err = run("serve", *arguments)
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


def test_other_machines_may_not_call_without_a_key(run: Run) -> None:
    assert "--api-key-file" in (error := one_error(run, "--host", "0.0.0.0"))
    assert "--no-auth" in error


def test_a_file_of_keys_that_is_missing_is_named(run: Run) -> None:
    assert "keys.txt cannot be read: No such file" in one_error(run, "--api-key-file", "keys.txt")


def test_a_file_of_keys_without_a_key_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "keys.txt").write_text("# none yet\n", encoding="utf-8")
    assert "has no key" in one_error(run, "--api-key-file", tmp_path / "keys.txt")


def test_a_port_in_use_is_named(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        assert f"port {port}: the port is in use" in one_error(run, "--port", port)


def test_a_missing_package_is_an_error_that_names_the_extra(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oneclip.cli.serve.find_spec", lambda name: None)
    error = one_error(run)
    assert "`oneclip serve` needs an optional dependency: pip install" in error
    assert "[serve]" in error


@pytest.mark.parametrize("index", ["nowhere", "empty"])
def test_an_index_that_is_none_is_named_before_the_server_listens(
    run: Run, tmp_path: Path, index: str
) -> None:
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / index) in one_error(run, "--port", 0, "--index", tmp_path / index)
