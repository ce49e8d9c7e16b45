"""Fixtures that run the command line in this process."""

import shutil
from pathlib import Path

import pytest
from commandline import Result, Run
from tiny import write_tiny_model

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Function that calls `oneclip` with arguments."""
    from oneclip.cli.app import run as run_app

    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(
        "oneclip.cli.progress_bars.QUIET_SECONDS", 3600.0
    )  # else a slow machine would print progress

    def call(*arguments: object) -> Result:
        capsys.readouterr()
        code = run_app([str(argument) for argument in arguments])
        return Result(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny model with random weights."""
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `images` with the eight example images, in a temporary current folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(EXAMPLES / "images", tmp_path / "images")
    return Path("images")
