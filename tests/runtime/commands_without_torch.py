"""Run commands in an environment without torch, for `test_without_torch.py`.

    python commands_without_torch.py MODEL IMAGES LABELS OUT

It writes OUT/commands.json: exit code, stdout and stderr of each command by name.
"""

import contextlib
import io
import json
import sys
from pathlib import Path

from oneclip.cli.app import run
from oneclip.search import scan

model, images, labels, out = sys.argv[1:]
each = [part for label in labels.split(",") for part in ("--label", label)]
index = ["--index", f"{out}/index"]
one = f"{images}/00.png"
COMMANDS = {
    "classify": ["classify", one, *each, "--model", model, "--json"],
    "embed": ["embed", images, "--out", f"{out}/images.npz", "--model", model],
    "index": ["index", images, *index, "--model", model],
    "search": ["search", "a cat", *index, "--top", "5", "--json"],
    "search by image": ["search", one, *index, "--top", "1", "--json"],
    "duplicates": ["duplicates", images, *index, "--json"],
    "sort": ["sort", images, *index, *each, "--into", f"{out}/sorted"],
    "explain": ["explain", one, *each, "--model", model],
    "evaluate": ["evaluate", "--model", model, "--data", images],
    "model in torch": ["classify", one, *each],
}

scan.FEW = 20  # rows above which the int8 codes are scanned
results = {}
for name, command in COMMANDS.items():
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        code = int(run(command))
    results[name] = {"code": code, "out": stdout.getvalue(), "err": stderr.getvalue()}
results["torch"] = {"code": int("torch" in sys.modules), "out": "", "err": ""}
Path(out, "commands.json").write_text(json.dumps(results), encoding="utf-8")
