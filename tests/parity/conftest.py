"""Results of the published packages, each computed in its own process, and the table of errors."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # both sides import the cases by the same names

import install  # noqa: E402

from tests import programs  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.parity)


class Reference:
    """Published package running in a process; results are available group by group.

    Test processes of one run share it: the first starts it, and all wait for the files that it writes.

    Args:
        package: what runs, see `reference.py`.
        folder: where its results go, the same for all test processes of a run.
        packages: what its path begins with.
    """

    def __init__(self, package: str, folder: Path, packages: tuple[Path, ...]) -> None:
        self.package, self.results, self.log = package, folder / package, folder / f"{package}.log"
        self.failed = folder / f"{package}.failed"
        self.process: BaseProcess | None = None
        self._seen: dict[str, Any] = {}
        try:
            log = self.log.open("xb")  # the process that creates it runs the package
        except FileExistsError:
            return
        self.results.mkdir()
        path = os.pathsep.join(map(str, packages))
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        with log:
            command = [HERE / "reference.py", package, self.results]
            self.process = programs.start(command, environment, log.fileno(), log.fileno())

    def __getitem__(self, group: str) -> Any:
        if group not in self._seen:
            result = self.results / f"{group}.pt"
            self._wait(result)
            self._seen[group] = torch.load(result, weights_only=True)
        return self._seen[group]

    def _wait(self, result: Path) -> None:
        until = time.monotonic() + LONGEST
        while not (result.exists() or self.failed.exists()) and time.monotonic() < until:
            if self.process is not None and self.process.exitcode is not None:
                self.failed.touch()
            time.sleep(0.1)
        if not result.exists():
            log = self.log.read_text(errors="replace")[-3000:]
            pytest.fail(f"{self.package} did not give {result.stem!r}: {log}", pytrace=False)

    def end(self, keep: bool) -> None:
        """Wait for the process if others need its results, otherwise end it."""
        if self.process is None or self.process.exitcode is not None:
            return
        if not keep:
            self.process.kill()
        self.process.join()
        if self.process.exitcode != 0:
            self.failed.touch()


LONGEST = 1800.0  # seconds
BESIDE: dict[str, tuple[Path, ...]] = {  # each run, and the packages on its path
    "open_clip": (install.PACKAGES,),
    "clip": (install.PACKAGES,),
    "clip_benchmark": (install.CLIP_BENCHMARK, install.PACKAGES),
    "captioning": (
        install.TRANSFORMERS4,
        install.PACKAGES,
    ),  # a version of transformers that works with CoCa's generation
}
running: dict[str, Reference] = {}


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start the published packages early, in parallel with other tests."""
    if session.config.option.collectonly:
        return
    wanted = {fixture for item in session.items for fixture in getattr(item, "fixturenames", ())}
    folder = session.config._tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        folder = folder.parent  # it contains the folders of the workers
    for package, packages in BESIDE.items():
        if f"published_{package}" in wanted and all(map(install.installed, packages)):
            running[package] = Reference(package, folder, packages)


def pytest_sessionfinish(exitstatus: int) -> None:
    for reference in running.values():
        reference.end(keep=exitstatus != pytest.ExitCode.INTERRUPTED)


def published(package: str) -> Reference:
    """Return the results of a package."""
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
def published_clip_benchmark() -> Reference:
    return published("clip_benchmark")


@pytest.fixture(scope="session")
def published_captioning() -> Reference:
    return published("captioning")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
