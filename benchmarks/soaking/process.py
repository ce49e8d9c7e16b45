"""The server in a process of its own, what it holds, and what it logs."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 300
STOP_SECONDS = 60
SAMPLES, PAUSE_SECONDS = 20, 0.2


class Held(NamedTuple):
    """What a process holds: bytes of memory, threads, and open files."""

    memory: int
    threads: int
    files: int


class ServerProcess:
    """A running `oneclip serve`.

    Attributes:
        port: on which it listens.
        index: what it says about its index: "name", "path" and so on.
    """

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process, self._log = process, log
        self.port = int(
            self._wait(lambda: re.search(r"listening on http://[\d.]+:(\d+)", log.read_text()))[1]
        )
        self._wait(lambda: self.get("/ready"))
        self.index = self.get("/v1/indexes")["indexes"][0]

    def get(self, path: str) -> Any:
        """Return the answer to a request; None if there is none, or it is no success."""
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.port}{path}", timeout=START_SECONDS
            ) as answer:
                content = answer.read()
        except OSError:
            return None
        return json.loads(content) if "json" in answer.headers["Content-Type"] else content.decode()

    def _wait(self, find: Any) -> Any:
        until = time.monotonic() + START_SECONDS
        while not (found := find()):
            if self._process.poll() is not None or time.monotonic() > until:
                sys.exit(f"the server did not start:\n{self._log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.1)
        return found

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def held(self) -> Held:
        """Return what the idle process holds: the least of some seconds, in which it may look at its index."""
        samples = []
        folder = Path(f"/proc/{self._process.pid}")
        for _ in range(SAMPLES):
            status = dict(re.findall(r"(?m)^(\w+):\s+(\d+)", (folder / "status").read_text()))
            files = len(os.listdir(folder / "fd"))
            samples.append(Held(1024 * int(status["VmRSS"]), int(status["Threads"]), files))
            time.sleep(PAUSE_SECONDS)
        memory = int(statistics.median(sample.memory for sample in samples))
        return Held(memory, min(s.threads for s in samples), min(s.files for s in samples))

    def metric(self, name: str) -> float:
        """Return the sum of a metric over its labels."""
        return sum(map(float, re.findall(rf"(?m)^{name}(?:{{.*}})? (\S+)$", self.get("/metrics"))))

    def faults_of_log(self, secrets: Sequence[str]) -> list[str]:
        """Return what should not be in the log: errors, tracebacks, and what clients have sent."""
        faults = []
        for line in self._log.read_text(errors="replace").splitlines()[1:]:
            try:
                entry = json.loads(line)
                is_bad = "traceback" in entry or entry["level"] not in ("info", "warning")
            except ValueError:  # such as a traceback of Python itself
                is_bad = True
            if is_bad or any(secret in line for secret in secrets):
                faults.append(f"the log has {line[:2000]}")
        return faults


@contextmanager
def serving(images: Path, folder: Path, *options: str) -> Iterator[ServerProcess]:
    """Start `oneclip serve` with the model pocket and an index; end it at last.

    Args:
        images: folder to index.
        folder: for the index and the log.
        options: of the command.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "ONECLIP_INDEXES": str(folder / "indexes")}
    command = [
        sys.executable,
        "-m",
        "oneclip",
        "serve",
        "-m",
        "pocket",
        "--index",
        str(images),
        "--port",
        "0",
    ]
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen([*command, *options], stdout=output, stderr=output, env=environment)
    try:
        yield ServerProcess(process, log)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
