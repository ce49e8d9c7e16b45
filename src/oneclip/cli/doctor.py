"""`oneclip doctor`: what this machine offers, and what in it would get in the way."""

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
from urllib.parse import urlsplit
from urllib.request import url2pathname

import typer

from oneclip import hardware
from oneclip._version import __version__
from oneclip.cli import options
from oneclip.cli.exits import ExitCode

CORE = ("torch", "numpy", "pillow", "safetensors", "huggingface_hub", "tokenizers", "ftfy", "typer", "rich")
EXTRAS = ("pyarrow", "timm", "transformers", "torchvision")
OUR_NAMES = ("oneclip", "clip", "open_clip")


def doctor(as_json: options.Json = False) -> None:
    """Check the installation and show what the machine has.

    Versions, devices, threads, import names and caches. Exits with 1 if there is a problem: a library is missing,
    another package owns the import name clip or open_clip, or the model of the wheel is not there.

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
    """All that `doctor` tells; `problems` is empty when nothing is in the way."""
    problems: list[str] = []
    return {
        "oneclip": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": _versions(problems),
        "cpu": hardware.cpu(),
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
                problems.append(f"{name} is not installed. {_run(f'install {name}')}")
    return versions


def _torch(problems: list[str]) -> dict[str, Any] | None:
    """Threads and devices, as torch sees them."""
    try:
        import torch
    except (ImportError, OSError) as error:
        problems.append(f"torch cannot be imported: {error}")
        return None
    return {
        "cuda": torch.version.cuda,
        "gpus": hardware.gpus(),
        "mps": torch.backends.mps.is_available(),
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def _plans() -> dict[str, str]:
    """What each precision would be computed with here; empty where torch is missing."""
    try:
        from oneclip.engine.precision import descriptions
    except (ImportError, OSError):  # told by `_torch`
        return {}
    return descriptions()


def _import_names(problems: list[str]) -> dict[str, dict[str, Any]]:
    """Who provides `oneclip`, `clip` and `open_clip`, and from where they are imported."""
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
            problems.append(f"import {name} finds nothing. {_run(_reinstall())}")
        elif not others and ours not in Path(origin).resolve().parents:
            problems.append(
                f"import {name} finds {origin}, which is not oneclip's; move that file or folder away"
            )
    problems += [_conflict(other, theirs) for other, theirs in shared.items()]
    return names


def _conflict(other: str, names: list[str]) -> str:
    """Another distribution that owns import names of ours, and what to do about it."""
    words = " and ".join(names)
    problem = (
        f"{other} is installed too and provides {words}: two packages overwrite each other's files. "
        + _run(f"uninstall -y {other}", _reinstall())
    )
    dependents = _dependents(other)
    if dependents:
        problem += (
            f"\n{', '.join(dependents)} needs {other} and then imports oneclip's {words} instead. `pip check` will "
            f"report {other} as missing; update {dependents[0]} with --no-deps, or pip installs {other} again"
        )
    return problem


def _run(*commands: str) -> str:
    """Arguments of pip as lines to paste into a shell, for the environment that this program runs in."""
    python = shlex.quote(sys.executable)
    return "Run:" + "".join(f"\n  {python} -m pip {command}" for command in commands)


def _reinstall() -> str:
    """How pip installs this distribution again, from where it was installed (PEP 610)."""
    try:
        origin = json.loads(metadata.distribution("oneclip").read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        origin = {}
    url = str(origin.get("url", "oneclip"))
    if "vcs_info" in origin:
        url = f"{origin['vcs_info']['vcs']}+{url}@{origin['vcs_info']['commit_id']}"
    place = shlex.quote(url2pathname(urlsplit(url).path) if url.startswith("file:") else url)
    editable = "--editable " if origin.get("dir_info", {}).get("editable") else ""
    return f"install --force-reinstall --no-deps {editable}{place}"


def _dependents(name: str) -> list[str]:
    """Installed distributions that require another, whatever the spelling of its name."""
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
    """A distribution's name as package indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _pocket(problems: list[str]) -> dict[str, Any]:
    from oneclip.zoo import pocket_path

    path = pocket_path()
    if not path.is_file():
        problems.append(f"the model in the wheel is missing: there is no {path}")
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
    """Bytes of all files in a folder, links not followed; what cannot be read counts as nothing."""
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
    rows += [["cpu", f"{cpu['name']}, {cpu['processors_for_us']} processors; {' '.join(cpu['flags'])}"]]
    if torch is not None:
        gpus = [f"{gpu['name']}, {gpu['bytes'] / 2**30:.0f} GiB" for gpu in torch["gpus"]]
        rows += [["gpu", "; ".join(gpus) or ("Apple (mps)" if torch["mps"] else "none that torch can use")]]
        omp = f", OMP_NUM_THREADS={torch['OMP_NUM_THREADS']}" if torch["OMP_NUM_THREADS"] else ""
        rows += [["threads", f"{torch['threads']} in torch, {torch['cpu_capability']}{omp}"]]
    rows += [[f"precision {name}", words] for name, words in report["plans"].items()]
    rows += [[f"import {name}", str(found["path"])] for name, found in report["import_names"].items()]
    pocket = report["pocket"]
    rows += [["pocket", f"{pocket['path']}, {_megabytes(pocket['bytes'])}" if pocket["bytes"] else "missing"]]
    rows += [["cache", f"{cache['path']}, {_megabytes(cache['bytes'])}"] for cache in report["caches"]]
    rows += [
        [
            "network",
            "switched off by ONECLIP_OFFLINE or HF_HUB_OFFLINE" if report["offline"] else "may be used",
        ]
    ]
    print_table([Column("what", "cyan"), Column("found")], rows)
    for problem in report["problems"]:
        print(f"\nPROBLEM  {problem}")
    if not report["problems"]:
        print("\nNo problems found.")
    sys.stdout.flush()


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
