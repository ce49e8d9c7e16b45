"""How long do `import oneclip` and loading a model take?

    python benchmarks/imports.py [--rounds 9]

Whole processes in turn, each a new Python; medians, minus the time of an empty program.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

from contest import given
from contest.arena import ROOT, machine

PROGRAMS = {
    "nothing": "pass",
    "import oneclip": "import oneclip",
    "oneclip --help": "import sys; sys.argv = ['oneclip', '--help']; from oneclip.cli import main; main()",
    "import torch": "import torch",
    "import oneclip, oneclip.load": "import oneclip; oneclip.load",
    "oneclip.load('pocket')": "import oneclip; oneclip.load('pocket', device='cpu')",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    seconds: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for number in range(options.rounds + 1):
        for name, program in PROGRAMS.items():
            start = time.perf_counter()
            command = [sys.executable, "-c", program]
            subprocess.run(command, check=False, env=environment, stdout=subprocess.DEVNULL)
            if number:
                seconds[name].append(time.perf_counter() - start)
    empty = statistics.median(seconds["nothing"])
    given.say(machine())
    given.say()
    given.say(f"{'':30} {'ms':>8}   {'over import torch':>17}")
    over = statistics.median(seconds["import torch"]) - empty
    for name, times in seconds.items():
        taken = statistics.median(times) - empty
        given.say(f"{name:30} {1e3 * taken:>8.0f}   {1e3 * (taken - over):>17.0f}")


if __name__ == "__main__":
    main()
