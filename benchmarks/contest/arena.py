"""Timing of contenders in separate processes, in turn on the same inputs, so that noise affects all of them.

A program names its entrants: functions from a folder with inputs to a dict of tasks. It first calls `serve(entrants)`,
which runs the tasks if the arena has started this process, and then `contest`.
"""

from __future__ import annotations

import logging
import os
import pickle
import platform
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = Path(os.environ.get("ONECLIP_PARITY_PACKAGES", str(ROOT / ".parity" / "packages")))
ENTER = "--enter"

Tasks = Mapping[str, Callable[[], Any]]
Entrants = Mapping[str, Callable[[Path], Tasks]]


@dataclass
class Results:
    """Results of a contest, by (entrant, task).

    Attributes:
        seconds: of each round.
        outputs: of the last round.
    """

    seconds: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    outputs: dict[tuple[str, str], Any] = field(default_factory=dict)

    def median(self, entrant: str, task: str) -> float:
        """Return the median time of a round, in seconds."""
        return statistics.median(self.seconds[entrant, task])

    def ratio(self, mine: tuple[str, str], theirs: tuple[str, str]) -> float:
        """Return the ratio of two times: the median over rounds, in each of which both ran."""
        pairs = zip(self.seconds[theirs], self.seconds[mine], strict=True)
        return statistics.median(long / short for long, short in pairs)


def serve(entrants: Entrants) -> None:
    """Run tasks and exit, in a child process of the arena; do nothing elsewhere."""
    if len(sys.argv) < 4 or sys.argv[1] != ENTER:
        return
    answers, sys.stdout = sys.stdout.buffer, sys.stderr
    logging.basicConfig(level=logging.ERROR)
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "parity")]
    from torchvision_stub import declare_operators

    declare_operators()  # operators of torchvision, which some packages import and CPU builds of torch lack
    tasks = entrants[sys.argv[2]](Path(sys.argv[3]))
    _send(answers, list(tasks))
    while (name := pickle.load(sys.stdin.buffer)) is not None:
        start = time.perf_counter()
        output = tasks[name]()
        _send(answers, (time.perf_counter() - start, output))
    sys.exit()


def contest(
    entrants: Entrants,
    folder: Path,
    rounds: int,
    wanted: Callable[[str], bool] = lambda task: True,
    warm_up: bool = True,
    settle: bool = False,
) -> Results:
    """Run all tasks of all entrants `rounds` times, after one warm-up.

    Args:
        entrants: as `serve` had them.
        folder: what each is given.
        rounds: how many count.
        wanted: says which tasks count.
        warm_up: do all of them once before; not for tasks of minutes.
        settle: in each round do a task once more before the clock starts, lest it pays for what others did to the
            caches and the memory since its last turn.
    """
    results = Results()
    with ExitStack() as stack:
        children = {name: stack.enter_context(_child(name, folder)) for name in entrants}
        tasks = {name: list(filter(wanted, pickle.load(_out(child)))) for name, child in children.items()}
        for number in range(0 if warm_up else 1, rounds + 1):
            for name, child in children.items():
                for task in tasks[name]:
                    for _ in range(1 + settle):
                        _send(child.stdin, task)
                        seconds, output = pickle.load(_out(child))
                    if number:
                        results.seconds[name, task].append(seconds)
                    results.outputs[name, task] = output
            print(f"round {number} of {rounds}", file=sys.stderr, flush=True)
    return results


def published() -> None:
    """Put the published packages on the import path."""
    if not (PACKAGES / "open_clip").is_dir():
        sys.exit(f"{PACKAGES} does not contain open_clip; install it with: python tests/parity/install.py")
    sys.path.insert(0, str(PACKAGES))
    from reference import prepare

    prepare()


def ours() -> None:
    """Put this checkout on the import path."""
    sys.path.insert(0, str(ROOT / "src"))


def machine() -> str:
    """Describe processor, threads and versions in a line."""
    import torch

    names = ("numpy", "pillow", "transformers", "onnxruntime", "openvino")
    from importlib import metadata

    versions = [f"torch {torch.__version__}", "open_clip_torch 3.3.0"]
    for name in names:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            versions.append(f"no {name}")
    return (
        f"{processor()}, {torch.get_num_threads()} threads; Python {platform.python_version()}, "
        + ", ".join(versions)
    )


def processor() -> str:
    """Return the name of the processor and its relevant instruction sets."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    facts = {name.strip(): value.strip() for name, value in facts.items()}
    flags = facts.get("flags", "").split()
    words = {"avx512f": "AVX-512", "avx512_bf16": "bf16", "avx512_vnni": "VNNI", "amx_bf16": "AMX"}
    known = [word for flag, word in words.items() if flag in flags]
    family = f"family {facts.get('cpu family', '?')} model {facts.get('model', '?')}"
    return f"{facts.get('model name', platform.machine())} ({family}; {', '.join(known) or 'no AVX-512'})"


@contextmanager
def _child(name: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, sys.argv[0], ENTER, name, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield process
        _send(process.stdin, None)
        process.wait(60)
    finally:
        process.kill()
        process.wait()


def _out(process: subprocess.Popen[bytes]) -> Any:
    assert process.stdout is not None
    return process.stdout


def _send(stream: Any, value: Any) -> None:
    pickle.dump(value, stream)
    stream.flush()
