"""What the published packages give, each in one process of its own for all tests of a session, and how far ours is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # the cases are imported by the same names on both sides

import install  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.parity)


class Reference:
    """A published package at work in a process; its results are there when they are asked for."""

    def __init__(self, package: str, folder: Path, packages: tuple[Path, ...]) -> None:
        self.package, self.result, self.log = package, folder / f"{package}.pt", folder / f"{package}.log"
        path = os.pathsep.join(map(str, packages))
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "ignore", str(HERE / "reference.py"), package, str(self.result)],
                env=environment,
                stdout=log,
                stderr=log,
            )
        self._seen: dict[str, Any] | None = None

    def __getitem__(self, group: str) -> Any:
        if self._seen is None:
            if self.process.wait() != 0:
                pytest.fail(
                    f"{self.package} did not run: {self.log.read_text(errors='replace')[-3000:]}",
                    pytrace=False,
                )
            self._seen = torch.load(self.result, weights_only=True)
        return self._seen[group]

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        shutil.rmtree(self.result.parent)


BESIDE: dict[str, tuple[Path, ...]] = {  # what runs, and the packages that it runs beside
    "open_clip": (install.PACKAGES,),
    "clip": (install.PACKAGES,),
    "captioning": (
        install.TRANSFORMERS4,
        install.PACKAGES,
    ),  # a transformers that open_clip can write captions with
}
running: dict[str, Reference] = {}


def pytest_collection_finish(session: pytest.Session) -> None:
    """Set to work, beside the tests that come before, what will be compared with."""
    if session.config.option.collectonly:
        return
    wanted = {fixture for item in session.items for fixture in getattr(item, "fixturenames", ())}
    for package, packages in BESIDE.items():
        if f"published_{package}" in wanted and all(map(install.installed, packages)):
            running[package] = Reference(package, Path(tempfile.mkdtemp(prefix="parity-")), packages)


def pytest_sessionfinish() -> None:
    for reference in running.values():
        reference.end()


def published(package: str) -> Reference:
    """What a package gives."""
    if package not in running:
        pytest.skip("the published packages are not here: python tests/parity/install.py")
    return running[package]


@pytest.fixture(scope="session")
def published_open_clip() -> Reference:
    return published("open_clip")


@pytest.fixture(scope="session")
def published_clip() -> Reference:
    return published("clip")


@pytest.fixture(scope="session")
def published_captioning() -> Reference:
    return published("captioning")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
