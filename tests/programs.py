"""Python programs as forks of a process that has imported torch, which alone takes a program three seconds."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any, TextIO

# nothing that reads the environment, which each program has its own of, when it is imported
HEAVY = ("torch._dynamo", "torch.distributed.checkpoint", "torch.distributed.fsdp")

FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(list(HEAVY))

Command = Sequence[str | Path | int]


def start(
    command: Command, environment: Mapping[str, str] | None = None, stdout: int = 1, stderr: int = 2
) -> BaseProcess:
    """Begin what `python -W ignore COMMAND` does. Whoever starts it waits for its end, or kills it.

    Args:
        command: a script, `-m` and a module, or `-c` and a program; then its arguments.
        environment: all variables; those of this process if not given.
        stdout: where it prints to, a file descriptor.
        stderr: likewise.
    """
    words, variables = [str(word) for word in command], dict(environment or os.environ)
    places = (_Place(stdout), _Place(stderr))
    process = FORKS.Process(target=_be, args=(words, variables, os.getcwd(), *places))
    process.start()
    return process


def run(
    command: Command, environment: Mapping[str, str] | None = None, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Do it, and give how it ended and all that it printed.

    Raises:
        TimeoutExpired: if it takes longer than `timeout` seconds.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = start(command, environment, out.fileno(), err.fileno())
        try:
            process.join(timeout)
            if process.exitcode is None:
                raise subprocess.TimeoutExpired(list(map(str, command)), timeout)
        finally:
            process.kill()
        printed = []
        for file in (out, err):
            file.seek(0)
            printed.append(file.read())
        return subprocess.CompletedProcess(list(map(str, command)), process.exitcode, *printed)


def begin(
    command: Command, environment: Mapping[str, str] | None = None, stream: int = 1, **other: int
) -> tuple[BaseProcess, TextIO]:
    """`start` it, and give what it prints (2: its errors) as it comes; `other` is the file of the other stream."""
    reading, writing = os.pipe()
    process = start(command, environment, **{"stdout" if stream == 1 else "stderr": writing}, **other)
    os.close(writing)
    return process, open(reading)


class _Place:
    """A file descriptor that goes to a process that is being started."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __getstate__(self) -> Any:
        return DupFd(self.number)

    def __setstate__(self, copy: Any) -> None:
        self.number = copy.detach()


def _be(words: list[str], variables: dict[str, str], folder: str, stdout: _Place, stderr: _Place) -> None:
    os.dup2(stdout.number, 1)
    os.dup2(stderr.number, 2)
    # what the server had open may be of another kind than these: a file, and no pipe
    sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", 1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    warnings.simplefilter("ignore")
    first, *rest = words
    if first == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<program>", "exec"), {"__name__": "__main__"})
    else:
        sys.path.insert(0, str(Path(first).parent))
        sys.argv = words
        runpy.run_path(first, run_name="__main__")
