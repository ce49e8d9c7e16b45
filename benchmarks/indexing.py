"""What do indexing, an update without changes, and a search from a cold start cost?

    python benchmarks/indexing.py [--images 10000] [--size 320x240] [--unchanged 100000] [--rounds 3] [--model pocket]

Whole processes in turn, each a new Python. Indexing reads dates, sizes and places of images and computes a perceptual
hash, beside what `oneclip embed` does. The update without changes is of the same images, each under several names.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

from contest import given, photographs
from contest.arena import ROOT, machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--size", default="320x240")
    parser.add_argument("--unchanged", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="pocket")
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        images, names = folder / "images", folder / "names"
        images.mkdir()
        photographs.write_jpegs(images, options.images, (width, height))
        _link(images, names, options.unchanged)
        seconds: dict[str, list[float]] = defaultdict(list)
        oneclip = [sys.executable, "-m", "oneclip"]
        model = ["--model", options.model]
        load = f"import oneclip; oneclip.load({options.model!r})"
        _run([*oneclip, "index", str(names), "--index", str(folder / "many"), *model])
        for number in range(options.rounds):
            index = folder / f"index{number}"
            for name, command in {
                "oneclip embed": [
                    *oneclip,
                    "embed",
                    str(images),
                    "-o",
                    str(folder / f"{number}.npz"),
                    *model,
                ],
                "oneclip index": [*oneclip, "index", str(images), "--index", str(index), *model],
                "import torch, load the model": [sys.executable, "-c", load],
                "oneclip search --no-update": [
                    *(*oneclip, "search", "a cat", "--no-update", "--index", str(index), "--files")
                ],
                "oneclip index, nothing new": [
                    *oneclip,
                    "index",
                    "--index",
                    str(folder / "many"),
                    str(names),
                ],
            }.items():
                start = time.perf_counter()
                _run(command)
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    given.say(
        f"{options.model}, {options.images} JPEGs of {options.size}, {options.rounds} rounds; {machine()}"
    )
    given.say()
    for name, times in seconds.items():
        given.say(f"{name:32} {medians[name]:8.2f} s   ({min(times):.2f} to {max(times):.2f})")
    given.say()
    _say_ratio(seconds, "oneclip index", "oneclip embed")
    _say_ratio(seconds, "oneclip search --no-update", "import torch, load the model")
    given.say(f"nothing new in {options.unchanged} files: {medians['oneclip index, nothing new']:.2f} s")


def _link(images: Path, names: Path, count: int) -> None:
    """Give images `count` names, a thousand in a folder."""
    files = sorted(images.iterdir())
    for number in range(count):
        folder = names / f"{number // 1000:04}"
        folder.mkdir(parents=True, exist_ok=True)
        os.link(files[number % len(files)], folder / f"{number:06}.jpg")


def _run(command: list[str]) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "ONECLIP_OFFLINE": "1"}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _say_ratio(seconds: dict[str, list[float]], mine: str, theirs: str) -> None:
    ratio = statistics.median(a / b for a, b in zip(seconds[mine], seconds[theirs], strict=True))
    given.say(f"{mine} takes {ratio:.2f} times {theirs}")


if __name__ == "__main__":
    main()
