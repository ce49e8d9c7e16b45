"""What do indexing, an update without changes, and a search from a cold start cost?

    python benchmarks/indexing.py [--images 10000] [--size 320x240] [--unchanged 100000] [--rounds 3]
                                  [--models pocket ViT-B-32]

Whole processes in turn, each a new Python. Indexing reads dates, sizes and places of images, and computes a perceptual
hash and what relevance needs, beside what `oneclip embed` does. Models other than pocket have random weights. The
update without changes is of the same images, each under several names. Ratios are medians over the rounds, of the time
that passes and of the time of all processors, which other programs disturb less.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from contest import given, photographs
from contest.arena import ROOT, machine

ONECLIP = (sys.executable, "-m", "oneclip")
EMBED, INDEX, UNCHANGED = "oneclip embed", "oneclip index", "oneclip index, nothing new"
LOAD, SEARCH = "import torch, load the model", "oneclip search --no-update"
Times = dict[str, list[tuple[float, float]]]  # seconds that passed, and of all processors, of each round


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--size", default="320x240")
    parser.add_argument("--unchanged", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", nargs="+", default=["pocket", "ViT-B-32"], metavar="MODEL")
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    given.say(f"{options.images} JPEGs of {options.size}, {options.rounds} rounds; {machine()}")
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        images, names = folder / "images", folder / "names"
        images.mkdir()
        photographs.write_jpegs(images, options.images, (width, height))
        _link(images, names, options.unchanged)
        for model in options.models:
            name = model
            if model != "pocket":
                (folder / model).mkdir()
                given.write_model(folder / model, model)
                name = str(folder / model / "model")
            times: Times = defaultdict(list)
            for number in range(options.rounds):
                _run_round(times, name, images, folder / f"{model}{number}")
            _say_times(f"{model}:", times)
            _say_ratio(times, INDEX, EMBED)
            _say_ratio(times, SEARCH, LOAD)
        many = [*ONECLIP, "index", str(names), "--index", str(folder / "many")]
        times = defaultdict(list)
        for number in range(options.rounds + 1):
            _run(times, UNCHANGED if number else "oneclip index, the first time", many)
        _say_times(f"{options.unchanged} files, pocket:", times)


def _run_round(times: Times, model: str, images: Path, output: Path) -> None:
    """Embed, index, load and search once."""
    index = ["--index", str(output.with_suffix(".index"))]
    load = f"import oneclip; oneclip.load({model!r})"
    embed = [*ONECLIP, "embed", str(images), "-o", str(output.with_suffix(".npz")), "--model", model]
    _run(times, EMBED, embed)
    _run(times, INDEX, [*ONECLIP, "index", str(images), *index, "--model", model])
    _run(times, LOAD, [sys.executable, "-c", load])
    _run(times, SEARCH, [*ONECLIP, "search", "a cat", "--no-update", *index, "--files"])


def _link(images: Path, names: Path, count: int) -> None:
    """Give images `count` names, a thousand in a folder."""
    files = sorted(images.iterdir())
    for number in range(count):
        folder = names / f"{number // 1000:04}"
        folder.mkdir(parents=True, exist_ok=True)
        os.link(files[number % len(files)], folder / f"{number:06}.jpg")


def _run(times: Times, name: str, command: Sequence[str]) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "ONECLIP_OFFLINE": "1"}
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    passed, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    times[name].append((passed, spent))


def _say_times(title: str, times: Times) -> None:
    given.say(f"\n{title}")
    for name, rounds in times.items():
        passed, spent = zip(*rounds, strict=True)
        given.say(
            f"{name:32} {statistics.median(passed):8.2f} s   ({min(passed):.2f} to {max(passed):.2f}); "
            f"of processors {statistics.median(spent):8.2f} s"
        )


def _say_ratio(times: Times, mine: str, theirs: str) -> None:
    passed, spent = (
        statistics.median(a[i] / b[i] for a, b in zip(times[mine], times[theirs], strict=True))
        for i in (0, 1)
    )
    given.say(f"{mine} takes {passed:.3f} times {theirs}; of processors {spent:.3f} times")


if __name__ == "__main__":
    main()
