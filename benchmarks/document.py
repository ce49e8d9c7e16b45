"""Run all benchmarks and write their output to docs/benchmarks.md.

    python benchmarks/document.py [TEXT ...]        only commands that contain one of these words

If a program fails, its previous results stay on the page, and this program exits with an error.
"""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import date

from contest.arena import ROOT

PAGE = ROOT / "docs" / "benchmarks.md"
COMMANDS = (
    "towers.py",
    "attention.py",
    "classifier.py",
    "folder.py",
    "folder.py --size 4000x3000 --decode fast --images 300",
    "latency.py",
    "distance.py",
    "imports.py",
    "decode.py --megapixels 12",
    "loading.py",
    "tokenizer.py",
    "relevance.py",
    "search.py",
    "indexing.py --images 1500 --rounds 2",
    "lance_indexes.py",
    "serving.py --rounds 3",
    "soak.py",
    "evaluation.py --images 100 --rounds 2 --workers 0 4",
    "heat_maps.py",
    "runtimes.py",
    "training.py",
    "losses.py",
    "gpu.py",
)
HEAD = """# Benchmarks

Written by `make bench`, which runs the programs of `benchmarks/`. Every contender runs in its own process, in turn with
the others, on the same inputs and random weights; results are medians of several rounds, and ratios. Each section shows
the command, its date and its output.
"""


def main() -> None:
    sections = _read()
    failed = []
    for command in COMMANDS:
        if len(sys.argv) > 1 and not any(word in command for word in sys.argv[1:]):
            continue
        print(f"== {command}", flush=True)
        program, *arguments = command.split()
        path = ROOT / "benchmarks" / program
        done = subprocess.run(
            [sys.executable, str(path), *arguments], stdout=subprocess.PIPE, text=True, check=False
        )
        print(done.stdout)
        if done.returncode:
            failed.append(command)
            continue
        question = path.read_text(encoding="utf-8").split('"""')[1].strip().splitlines()[0]
        sections[command] = (
            f"## {question}\n\n`python benchmarks/{command}`, {date.today()}\n\n```\n{done.stdout}```\n"
        )
        _write(sections)
    if failed:
        sys.exit(f"these failed: {', '.join(failed)}")


def _read() -> dict[str, str]:
    """Read the existing sections of the page, by command."""
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    found = {}
    for section in re.split(r"(?m)^(?=## )", text)[1:]:
        match = re.search(r"`python benchmarks/(.+?)`", section)
        if match:
            found[match[1]] = section.rstrip("\n") + "\n"
    return found


def _write(sections: dict[str, str]) -> None:
    known = [sections[command] for command in COMMANDS if command in sections]
    PAGE.write_text("\n".join([HEAD, *known]), encoding="utf-8")


if __name__ == "__main__":
    main()
