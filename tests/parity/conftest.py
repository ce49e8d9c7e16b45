"""What the published packages give, each in one process of its own for all tests of a session, and how far ours is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # the cases are imported by the same names on both sides

import install  # noqa: E402
from parity_compare import greatest  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.parity)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if greatest:
        terminalreporter.section("greatest relative errors against the published packages")
        for group, error in sorted(greatest.items()):
            terminalreporter.write_line(f"{group:40} {error:.1e}")


class Reference:
    """A published package at work in a process; its results are there when they are asked for."""

    def __init__(self, package: str, folder: Path, packages: tuple[Path, ...] = (install.PACKAGES,)) -> None:
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
        self.result.unlink(missing_ok=True)


@pytest.fixture(scope="session")
def references(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Reference]]:
    if not install.installed():
        pytest.skip("the published packages are not here: python tests/parity/install.py")
    folder = tmp_path_factory.mktemp("parity")
    running = {package: Reference(package, folder) for package in ("open_clip", "clip")}
    yield running
    for reference in running.values():
        reference.end()


@pytest.fixture(scope="session")
def published_open_clip(references: dict[str, Reference]) -> Reference:
    return references["open_clip"]


@pytest.fixture(scope="session")
def published_clip(references: dict[str, Reference]) -> Reference:
    return references["clip"]


@pytest.fixture(scope="session")
def published_captioning(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    """open_clip_torch beside a transformers that it can write captions with."""
    packages = (install.TRANSFORMERS4, install.PACKAGES)
    if not all(map(install.installed, packages)):
        pytest.skip("the published packages are not here: python tests/parity/install.py")
    running = Reference("captioning", tmp_path_factory.mktemp("captioning"), packages)
    yield running
    running.end()


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
