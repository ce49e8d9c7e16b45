"""Run the cases on a published package, in a process with that package first on the path.

PYTHONPATH=.parity/packages python tests/parity/reference.py open_clip FOLDER

Each group of cases becomes a file in the folder once it is done, so that nobody waits for the groups after it.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import types
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import write_files
from install import PACKAGES

HERE = Path(__file__).resolve().parent
TEXTS = {"open_clip": 10_000, "clip": 3_000}  # number of random strings, different ones for each package

Groups = dict[str, Callable[[], Any]]
"""Functions that return the results of each group of cases, by name."""


def main(package_name: str, folder: str) -> None:
    torch.set_num_threads(1)
    sys.path.append(str(HERE.parent))
    prepare()
    run = RUNS[package_name]
    package = importlib.import_module(run.imported)
    if PACKAGES not in Path(str(package.__file__)).parents:
        raise SystemExit(f"{run.imported} was imported from {package.__file__}, and not the published one")
    groups = run.groups(package)
    if package_name == "open_clip":
        groups = {"files": lambda: write_files.write_all(package, Path(folder, "written")), **groups}
    for group, observe in groups.items():
        part = Path(folder, f"{group}.part")
        torch.save(observe(), part)
        part.rename(part.with_suffix(".pt"))  # renamed when complete, for processes that wait for it


def of_open_clip(package: Any) -> Groups:
    import cases_clip
    import cases_differences
    import cases_factory
    import cases_factory_differences
    import cases_loss
    import cases_mobileclip
    import cases_model
    import cases_modules
    import cases_names
    import cases_patches
    import cases_preprocess
    import cases_random
    import cases_resize
    import cases_siglip
    import cases_siglip_inside
    import cases_text
    import cases_towers
    import cases_transformer
    import cases_zero_shot

    return {
        "siglip": lambda: cases_siglip.of_open_clip(package),
        "siglip inside": lambda: cases_siglip_inside.observe(package),
        "text": lambda: cases_text.observe(package),
        "towers": lambda: cases_towers.observe_all(package),
        "tower names": lambda: cases_towers.names(),
        "grown towers": lambda: cases_towers.observe_grown(package),
        "mobileclip": lambda: {
            name: cases_mobileclip.read_back(package, name) for name in cases_mobileclip.NAMES
        },
        "transformer": lambda: cases_transformer.observe(package),
        "zero_shot": lambda: cases_zero_shot.observe(package),
        "models": lambda: {case.name: cases_model.observe(package, case) for case in cases_model.cases()},
        "modules": lambda: cases_modules.of_open_clip(package),
        "patches": lambda: cases_patches.of_open_clip(package),
        "random": lambda: cases_random.of_open_clip(package),
        "signatures": lambda: cases_model.signatures(package),
        "beginnings": lambda: cases_model.beginnings(package),
        "full": lambda: {name: cases_clip.of_open_clip(package, name) for name in cases_clip.FULL},
        "differences": lambda: cases_differences.observe(package),
        "factory": lambda: cases_factory.observe(package),
        "factory differences": lambda: cases_factory_differences.observe(package),
        "loss": lambda: cases_loss.observe(package),
        "names": lambda: cases_names.observe(package),
        "preprocess": lambda: cases_preprocess.of_open_clip(package),
        "resize": lambda: cases_resize.observe(package),
        "tokens": lambda: tokens("open_clip", package.tokenizer._tokenizer, package.tokenize),
    }


def of_captioning(package: Any) -> Groups:
    """Return the captions of open_clip_torch, with the last transformers that works with it."""
    import cases_coca
    import cases_coca_differences
    import cases_generate

    return {
        "models": lambda: cases_coca.observe_all(package),
        "written": lambda: cases_generate.observe(package),
        "differences": lambda: cases_coca_differences.observe(package),
    }


def of_clip(package: Any) -> Groups:
    import cases_clip
    import cases_modules
    import cases_names
    import cases_patches
    import cases_preprocess
    import cases_random

    return {
        "names": lambda: cases_names.observe(package),
        "small": lambda: {
            name: cases_clip.observe(package, arguments) for name, arguments in cases_clip.SMALL.items()
        },
        "full": lambda: {
            name: cases_clip.observe(package, arguments) for name, arguments in cases_clip.FULL.items()
        },
        "modules": lambda: cases_modules.of_clip(package),
        "patches": lambda: cases_patches.of_clip(package),
        "random": lambda: cases_random.of_clip(package),
        "signatures": lambda: cases_clip.signatures(package),
        "preprocess": lambda: cases_preprocess.of_openai(package),
        "tokens": lambda: tokens(
            "clip", package.clip._tokenizer, lambda texts: package.tokenize(texts, truncate=True)
        ),
    }


def tokens(package: str, tokenizer: Any, tokenize: Any) -> dict[str, Any]:
    """Return ids and decoded texts of random strings, and the rows of ids."""
    from cases_tokenizer import outcomes, texts

    found = [(ids, decoded) for _, ids, decoded in outcomes(tokenizer, random_texts(package))]
    rows = tokenize(list(texts(2_000, seed=1)))
    return {"ids": [ids for ids, _ in found], "decoded": [text for _, text in found], "rows": rows.int()}


def of_clip_benchmark(package: Any) -> Groups:
    """Return the metrics of CLIP_benchmark, for models of open_clip_torch."""
    import cases_evaluate
    import cases_evaluate_runs
    import cases_linear_probe
    import run_clip_benchmark

    run_clip_benchmark.prepare()

    def whole_runs() -> Any:
        with tempfile.TemporaryDirectory() as folder:
            return cases_evaluate_runs.of_clip_benchmark(package, Path(folder))

    return {
        "evaluate": lambda: cases_evaluate.of_clip_benchmark(package),
        "evaluate runs": whole_runs,
        "linear probe": cases_linear_probe.of_clip_benchmark,
    }


class Run(NamedTuple):
    """What a process computes.

    Attributes:
        imported: package with the models.
        groups: results that are computed with it.
    """

    imported: str
    groups: Callable[[Any], Groups]


RUNS = {
    "open_clip": Run("open_clip", of_open_clip),
    "clip": Run("clip", of_clip),
    "captioning": Run("open_clip", of_captioning),
    "clip_benchmark": Run("open_clip", of_clip_benchmark),
}


@cache
def random_texts(package: str) -> list[str]:
    from cases_tokenizer import texts

    return list(texts(TEXTS[package], seed=len(package)))


def prepare() -> None:
    """Patch what the packages need with current versions of torch and setuptools."""
    from torchvision_stub import import_torchvision

    import_torchvision()
    if importlib.util.find_spec("pkg_resources") is None:
        import packaging.version

        stand_in = types.ModuleType("pkg_resources")
        stand_in.packaging = packaging  # type: ignore[attr-defined]
        sys.modules["pkg_resources"] = stand_in


if __name__ == "__main__":
    main(*sys.argv[1:])
