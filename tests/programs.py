"""Python programs run as forks of a process that has imported torch, which saves three seconds for each."""

from __future__ import annotations

import json
import os
import runpy
import signal
import socketserver
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any, TextIO

# modules that do not read the environment at import, since each program has its own
HEAVY = ("torch._dynamo", "torch.distributed.checkpoint", "torch.distributed.fsdp")

FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(list(HEAVY))

Command = Sequence[str | Path | int]


def start(
    command: Command, environment: Mapping[str, str] | None = None, stdout: int = 1, stderr: int = 2
) -> BaseProcess:
    """Start the equivalent of `python -W ignore COMMAND`. The caller must wait for it or kill it.

    Args:
        command: a script, `-m` and a module, or `-c` and a program; then its arguments.
        environment: all variables; None for those of this process.
        stdout: file descriptor of its output.
        stderr: file descriptor of its errors.
    """
    words, variables = [str(word) for word in command], dict(environment or os.environ)
    descriptors = (_Descriptor(stdout), _Descriptor(stderr))
    process = FORKS.Process(target=_run_program, args=(words, variables, os.getcwd(), *descriptors))
    process.start()
    return process


def run(
    command: Command, environment: Mapping[str, str] | None = None, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, and return its exit code and output.

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
    """Start a command, and return its process and a pipe from stdout (`stream` 1) or stderr (2).

    `other` is the file descriptor of the other stream.
    """
    reading, writing = os.pipe()
    process = start(command, environment, **{"stdout" if stream == 1 else "stderr": writing}, **other)
    os.close(writing)
    return process, open(reading)


# what a shell starts instead of Python: it sends its arguments, and prints what the program printed
CLIENT = """
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server, server.makefile("rw", encoding="utf-8") as lines:
    server.connect(os.path.join(os.path.dirname(__file__), "socket"))
    print(json.dumps([sys.argv[1:], dict(os.environ)]), file=lines, flush=True)
    code, out, err = json.loads(lines.readline())
print(out, end="", flush=True)
print(err, end="", file=sys.stderr)
sys.exit(code)
"""


@contextmanager
def for_shell() -> Iterator[str]:
    """Return the words that run `python` as `run` does, for shell scripts; they work until the context ends."""
    with tempfile.TemporaryDirectory() as folder:
        client = Path(folder, "client.py")
        client.write_text(CLIENT, encoding="utf-8")
        with socketserver.UnixStreamServer(f"{folder}/socket", _RunForShell) as server:
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            yield f'"{sys.executable}" -IS "{client}"'
            server.shutdown()


class _RunForShell(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        done = run(*json.loads(self.rfile.readline()))
        self.wfile.write(json.dumps([done.returncode, done.stdout, done.stderr]).encode() + b"\n")


class _Descriptor:
    """File descriptor passed to a new process."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __getstate__(self) -> Any:
        return DupFd(self.number)

    def __setstate__(self, copy: Any) -> None:
        self.number = copy.detach()


def _run_program(
    words: list[str], variables: dict[str, str], folder: str, stdout: _Descriptor, stderr: _Descriptor
) -> None:
    os.dup2(stdout.number, 1)
    os.dup2(stderr.number, 2)
    # the streams of the fork server may be of another type, for example a file instead of a pipe
    sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", 1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    sys.path[:0] = filter(None, variables.get("PYTHONPATH", "").split(os.pathsep))
    # background jobs of a shell ignore SIGINT, and children inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)
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
