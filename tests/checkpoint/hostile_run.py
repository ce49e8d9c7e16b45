"""Load every hostile file in one process with little memory, and print what came of each, a line of JSON a file.

python tests/checkpoint/hostile_run.py
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import hostile  # noqa: E402
import hostile_configurations  # noqa: E402
import hostile_files  # noqa: E402
import torch  # noqa: E402

from oneclip import checkpoint, zoo  # noqa: E402

MEMORY = 2**30  # bytes that loading may take beyond what the process has when it begins


def files() -> Iterator[tuple[str, hostile.Writer]]:
    yield from hostile.whole_pickles()
    for writers in (
        hostile_files.archives,
        hostile_files.stored,
        hostile_files.arrays,
        hostile_files.indices,
        hostile_configurations.configurations,
        hostile_configurations.others,
    ):
        yield from writers()


def main() -> None:
    torch.set_num_threads(1)
    os.environ["ONECLIP_OFFLINE"] = "1"
    checkpoint.load("pocket", device="cpu")  # everything that loading imports is here
    with tempfile.TemporaryDirectory() as root:
        os.chdir(root)
        for number, (name, write) in enumerate(files()):
            folder = Path(root, "files", str(number))
            folder.mkdir(parents=True)
            path = write(folder)
            print(
                json.dumps({"name": name, **outcome(path), "ran": bool(list(Path(root).rglob("ran")))}),
                flush=True,
            )
            shutil.rmtree(Path(root, "files"))


def outcome(path: Path) -> dict[str, Any]:
    """What loading and what inspecting gives, how long both took, and by how much memory grew."""
    seen: dict[str, Any] = {}
    forget_high_water()
    before, began = high_water(), time.perf_counter()
    limited(memory_now() + MEMORY)
    for action in (inspect, load):
        try:
            action(path)
            seen[action.__name__] = ["nothing"]
        except BaseException as error:
            seen[action.__name__] = [kind.__name__ for kind in type(error).__mro__]
            seen["message"] = str(error)[:300]
    limited(resource.RLIM_INFINITY)
    return {**seen, "seconds": time.perf_counter() - began, "memory": high_water() - before}


def inspect(path: Path) -> None:
    found = checkpoint.examine(source(path), values=False)
    if path.is_dir():
        checkpoint.settled(found)


def load(path: Path) -> None:
    if path.is_dir():
        checkpoint.load(path, device="cpu")
    else:
        checkpoint.read(path)


def source(path: Path) -> zoo.Source:
    return zoo.Source(str(path), "folder" if path.is_dir() else "file", path=path)


def limited(memory: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory, resource.getrlimit(resource.RLIMIT_AS)[1]))


def memory_now() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def high_water() -> int:
    """The most memory that the process had at once since `forget_high_water`."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def forget_high_water() -> None:
    Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    main()
