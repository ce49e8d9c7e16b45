"""Run the cases on a published package, in a process whose path has that package first.

PYTHONPATH=.parity/packages python tests/parity/reference.py open_clip result.pt
"""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from install import PACKAGES

HERE = Path(__file__).resolve().parent
TEXTS = 20_000


def main(package_name: str, result: str) -> None:
    torch.set_num_threads(1)
    sys.path.append(str(HERE.parent))
    prepare()
    package = importlib.import_module({"captioning": "open_clip"}.get(package_name, package_name))
    if PACKAGES not in Path(str(package.__file__)).parents:
        raise SystemExit(f"{package_name} was imported from {package.__file__}, and not the published one")
    seen = {"open_clip": of_open_clip, "clip": of_clip, "captioning": of_captioning}[package_name](package)
    part = Path(f"{result}.part")
    torch.save(seen, part)
    part.replace(result)  # whole, for whoever waits for it


def of_open_clip(package: Any) -> dict[str, Any]:
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
        "siglip": cases_siglip.of_open_clip(package),
        "siglip inside": cases_siglip_inside.observe(package),
        "text": cases_text.observe(package),
        "towers": cases_towers.observe_all(package),
        "tower names": cases_towers.names(),
        "grown towers": cases_towers.observe_grown(package),
        "mobileclip": {name: cases_mobileclip.read_back(package, name) for name in cases_mobileclip.NAMES},
        "transformer": cases_transformer.observe(package),
        "zero_shot": cases_zero_shot.observe(package),
        "models": {case.name: cases_model.observe(package, case) for case in cases_model.cases()},
        "modules": cases_modules.of_open_clip(package),
        "patches": cases_patches.of_open_clip(package),
        "random": cases_random.of_open_clip(package),
        "signatures": cases_model.signatures(package),
        "beginnings": cases_model.beginnings(package),
        "full": {name: cases_clip.of_open_clip(package, name) for name in cases_clip.FULL},
        "differences": cases_differences.observe(package),
        "factory": cases_factory.observe(package),
        "factory differences": cases_factory_differences.observe(package),
        "loss": cases_loss.observe(package),
        "names": cases_names.observe(package),
        "preprocess": cases_preprocess.of_open_clip(package),
        "resize": cases_resize.observe(package),
        "tokens": tokens(package.tokenizer._tokenizer, package.tokenize),
    }


def of_captioning(package: Any) -> dict[str, Any]:
    """Of open_clip_torch beside the last transformers that it can write captions with."""
    import cases_coca
    import cases_coca_differences
    import cases_generate

    return {
        "models": cases_coca.observe_all(package),
        "written": cases_generate.observe(package),
        "differences": cases_coca_differences.observe(package),
    }


def of_clip(package: Any) -> dict[str, Any]:
    import cases_clip
    import cases_modules
    import cases_names
    import cases_patches
    import cases_preprocess
    import cases_random

    return {
        "names": cases_names.observe(package),
        "small": {
            name: cases_clip.observe(package, arguments) for name, arguments in cases_clip.SMALL.items()
        },
        "full": {name: cases_clip.observe(package, arguments) for name, arguments in cases_clip.FULL.items()},
        "modules": cases_modules.of_clip(package),
        "patches": cases_patches.of_clip(package),
        "random": cases_random.of_clip(package),
        "signatures": cases_clip.signatures(package),
        "preprocess": cases_preprocess.of_openai(package),
        "tokens": tokens(package.clip._tokenizer, lambda texts: package.tokenize(texts, truncate=True)),
    }


def tokens(tokenizer: Any, tokenize: Any) -> dict[str, Any]:
    """Ids and decoded texts of random strings, and the rows that a model would get."""
    from cases_tokenizer import outcomes, texts

    found = [(ids, decoded) for _, ids, decoded in outcomes(tokenizer, random_texts())]
    rows = tokenize(list(texts(TEXTS // 10, seed=1)))
    return {"ids": [ids for ids, _ in found], "decoded": [text for _, text in found], "rows": rows.int()}


def random_texts() -> Iterator[str]:
    from cases_tokenizer import texts

    return texts(TEXTS)


def prepare() -> None:
    """What the packages need to be imported beside a torch and a setuptools of today."""
    from torchvision_stub import import_torchvision

    import_torchvision()
    if importlib.util.find_spec("pkg_resources") is None:
        import packaging.version

        stand_in = types.ModuleType("pkg_resources")
        stand_in.packaging = packaging  # type: ignore[attr-defined]
        sys.modules["pkg_resources"] = stand_in


if __name__ == "__main__":
    main(*sys.argv[1:])
