"""What a run ran on and with: versions, machine, source, command."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from oneclip import hardware
from oneclip._version import __version__

PACKAGES = (
    "torch",
    "numpy",
    "pillow",
    "safetensors",
    "tokenizers",
    "timm",
    "transformers",
    "peft",
    "pyarrow",
)
SOURCE = Path(__file__).resolve().parents[1]


def environment() -> dict[str, Any]:
    """Plain values that say what a run was made with; what is not known is left out."""
    import torch

    return {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": sys.argv,
        "folder": os.getcwd(),
        "machine": hardware.in_words(),
        "host": platform.node(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "python": f"{platform.python_version()} on {platform.platform()}",
        "versions": {"oneclip": __version__, **_versions()},
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "sources": _sources(),
    }


def added_to(text: str | None, changed: Sequence[str] = ()) -> str:
    """The content of `environment.json` with one more start of the run, the last one being this.

    Args:
        text: what the file held, if the run goes on.
        changed: the settings that are others than before, a line each.
    """
    try:
        before = list(json.loads(text)["starts"]) if text else []
    except (
        ValueError,
        KeyError,
        RecursionError,
        TypeError,
    ):  # cut short by a crash: what it said is not worth an error
        before = []
    start = environment() | ({"changed": list(changed)} if changed else {})
    return json.dumps({"starts": [*before, start]}, indent=2, ensure_ascii=False) + "\n"


def _versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _sources() -> dict[str, str]:
    """The commits of this library and of the current folder, where they are checkouts."""
    found = {"oneclip": _commit(SOURCE), "folder": _commit(Path.cwd())}
    return {name: commit for name, commit in found.items() if commit is not None}


def _commit(folder: Path) -> str | None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        is_changed = git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}, with changes" if is_changed else commit
