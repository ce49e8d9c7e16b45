"""`oneclip doctor`: show what this machine has, and find problems of the installation."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer

from oneclip import hardware
from oneclip._version import __version__
from oneclip.cli import options
from oneclip.cli.exits import ExitCode
from oneclip.installation import install_source

CORE = ("torch", "numpy", "pillow", "safetensors", "huggingface_hub", "tokenizers", "ftfy", "typer", "rich")
EXTRAS = ("pyarrow", "timm", "transformers", "torchvision")
OUR_NAMES = ("oneclip", "clip", "open_clip")


def doctor(as_json: options.JsonOption = False) -> None:
    """Check the installation and show what this machine has.

    Shows versions, devices, threads, import names and caches. Exits with 1 if there is a problem: a library is
    missing, another package provides the import name clip or open_clip, or the bundled model is missing.

    \b
    Examples:
      oneclip doctor
      oneclip doctor --json
    """
    report = examine()
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        _print_report(report)
    if report["problems"]:
        raise typer.Exit(ExitCode.ERROR)


def examine() -> dict[str, Any]:
    """Collect the report; `problems` is a list of sentences."""
    problems: list[str] = []
    return {
        "oneclip": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": _versions(problems),
        "cpu": hardware.cpu_info(),
        "torch": _torch(problems),
        "plans": _plans(),
        "import_names": _import_names(problems),
        "pocket": _pocket(problems),
        "caches": _caches(),
        "offline": _offline(),
        "problems": problems,
    }


def _versions(problems: list[str]) -> dict[str, str | None]:
    versions: dict[str, str | None] = {}
    for name in (*CORE, *EXTRAS):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
            if name in CORE:
                problems.append(f"{name} is not installed. {_pip_commands(f'install {name}')}")
    return versions


def _torch(problems: list[str]) -> dict[str, Any] | None:
    """Return the threads and devices of torch."""
    try:
        import torch
    except (ImportError, OSError) as error:
        problems.append(f"torch cannot be imported: {error}")
        return None
    return {
        "cuda": torch.version.cuda,
        "gpus": hardware.list_gpus(),
        "mps": torch.backends.mps.is_available(),
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def _plans() -> dict[str, str]:
    """Describe how each precision is computed on this machine; empty if torch is missing."""
    try:
        from oneclip.engine.precision import descriptions
    except (ImportError, OSError):  # reported by `_torch`
        return {}
    return descriptions()


def _import_names(problems: list[str]) -> dict[str, dict[str, Any]]:
    """Find which distributions provide `oneclip`, `clip` and `open_clip`, and from where they are imported."""
    ours = Path(__file__).resolve().parents[2]
    owners = metadata.packages_distributions()
    names: dict[str, dict[str, Any]] = {}
    shared: dict[str, list[str]] = {}
    for name in OUR_NAMES:
        others = sorted({owner for owner in owners.get(name, []) if _normalized(owner) != "oneclip"})
        spec = find_spec(name)
        origin = spec.origin if spec is not None else None
        names[name] = {"path": origin, "other_distributions": others}
        for other in others:
            shared.setdefault(other, []).append(name)
        if origin is None:
            problems.append(f"import {name} fails: no such module. {_pip_commands(_reinstall_command())}")
        elif not others and ours not in Path(origin).resolve().parents:
            problems.append(
                f"import {name} finds {origin}, which is not part of oneclip; move that file or folder"
            )
    problems += [_conflict(other, theirs) for other, theirs in shared.items()]
    return names


def _conflict(other: str, names: list[str]) -> str:
    """Describe another distribution that provides our import names, and how to remove it."""
    words = " and ".join(names)
    problem = (
        f"{other} also provides {words}: the two packages overwrite each other's files. "
        + _pip_commands(f"uninstall -y {other}", _reinstall_command())
    )
    dependents = _dependents(other)
    if dependents:
        problem += (
            f"\n{', '.join(dependents)} requires {other}, and will import {words} of oneclip instead. `pip check` will "
            f"report {other} as missing; update {dependents[0]} with --no-deps, or pip installs {other} again"
        )
    return problem


def _pip_commands(*commands: str) -> str:
    """Format pip commands for this Python environment, ready to paste into a shell."""
    python = shlex.quote(sys.executable)
    return "Run:" + "".join(f"\n  {python} -m pip {command}" for command in commands)


def _reinstall_command() -> str:
    """Return pip arguments that reinstall this distribution from where it came."""
    location, is_editable = install_source()
    editable = "--editable " if is_editable else ""
    return f"install --force-reinstall --no-deps {editable}{shlex.quote(location)}"


def _dependents(name: str) -> list[str]:
    """List installed distributions that require another, in any spelling of its name."""
    wanted = _normalized(name)
    found = {
        str(each.metadata["Name"])
        for each in metadata.distributions()
        for requirement in each.requires or []
        if "extra ==" not in requirement
        and _normalized(re.split(r"[^\w.-]", requirement, maxsplit=1)[0]) == wanted
    }
    return sorted(found)


def _normalized(name: str) -> str:
    """Normalize a distribution's name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _pocket(problems: list[str]) -> dict[str, Any]:
    from oneclip.zoo import pocket_path

    path = pocket_path()
    if not path.is_file():
        problems.append(f"the bundled model is missing: {path} not found")
    return {"path": str(path), "bytes": path.stat().st_size if path.is_file() else None}


def _caches() -> list[dict[str, Any]]:
    from oneclip.hub import cache_folder

    folders = [cache_folder()]
    try:
        from huggingface_hub.constants import HF_HUB_CACHE

        folders.append(Path(HF_HUB_CACHE))
    except ImportError:  # reported among the versions
        pass
    return [{"path": str(folder), "bytes": _size_of(folder)} for folder in folders]


def _size_of(folder: Path) -> int:
    """Return the bytes of all files in a folder, without links and files that cannot be read."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except OSError:
                continue
    return total


def _offline() -> bool:
    from oneclip.hub import offline

    return offline()


def _print_report(report: dict[str, Any]) -> None:
    from oneclip.cli.table_output import Column, print_table

    torch, cpu = report["torch"], report["cpu"]
    missing = [name for name, version in report["versions"].items() if version is None]
    rows = [["oneclip", report["oneclip"]], ["python", f"{report['python']} on {report['platform']}"]]
    rows += [[name, version] for name, version in report["versions"].items() if version is not None]
    rows += [["not installed", ", ".join(missing)]] if missing else []
    rows += [["cpu", f"{cpu['name']}, {cpu['available_processors']} processors; {' '.join(cpu['flags'])}"]]
    if torch is not None:
        gpus = [f"{gpu['name']}, {gpu['bytes'] / 2**30:.0f} GiB" for gpu in torch["gpus"]]
        rows += [["gpu", "; ".join(gpus) or ("Apple (mps)" if torch["mps"] else "none usable by torch")]]
        omp = f", OMP_NUM_THREADS={torch['OMP_NUM_THREADS']}" if torch["OMP_NUM_THREADS"] else ""
        rows += [["threads", f"{torch['threads']} in torch, {torch['cpu_capability']}{omp}"]]
    rows += [[f"precision {name}", words] for name, words in report["plans"].items()]
    rows += [[f"import {name}", str(found["path"])] for name, found in report["import_names"].items()]
    pocket = report["pocket"]
    rows += [["pocket", f"{pocket['path']}, {_megabytes(pocket['bytes'])}" if pocket["bytes"] else "missing"]]
    rows += [
        [f"cache ({name})", f"{cache['path']}, {_megabytes(cache['bytes'])}"]
        for name, cache in zip(("oneclip", "Hugging Face"), report["caches"], strict=False)
    ]
    network = "switched off by ONECLIP_OFFLINE or HF_HUB_OFFLINE" if report["offline"] else "allowed"
    rows += [["network", network]]
    print_table([Column("item", "cyan"), Column("found")], rows)
    for problem in report["problems"]:
        print(f"\nPROBLEM  {problem}")
    if not report["problems"]:
        print("\nNo problems found.")
    sys.stdout.flush()


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
