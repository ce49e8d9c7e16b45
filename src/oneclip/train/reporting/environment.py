"""Environment of a run: versions, machine, source commits, command."""

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


def describe_environment() -> dict[str, Any]:
    """Describe the environment of this process with plain values. Unknown ones are left out."""
    import torch

    return {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": sys.argv,
        "folder": os.getcwd(),
        "machine": hardware.describe_hardware(),
        "host": platform.node(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "python": f"{platform.python_version()} on {platform.platform()}",
        "versions": {"oneclip": __version__, **_versions()},
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "sources": _sources(),
    }


def append_start(text: str | None, changed: Sequence[str] = ()) -> str:
    """Return the content of `environment.json` with this start of the run appended.

    Args:
        text: the previous content, if the run is resumed.
        changed: settings that differ from the previous start, one line each.
    """
    try:
        before = list(json.loads(text)["starts"]) if text else []
    except (ValueError, KeyError, RecursionError, TypeError):  # truncated by a crash; not worth an error
        before = []
    start = describe_environment() | ({"changed": list(changed)} if changed else {})
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
    """Return the git commits of this library and of the current folder, if they are checkouts."""
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
