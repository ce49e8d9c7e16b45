"""Recipes: each file is valid for its command, and the smallest one runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import oneclip
from oneclip import zoo
from oneclip.cli.app import run as cli
from oneclip.cli.exits import ExitCode
from oneclip.config.finetune import FinetuneCfg
from oneclip.config.schema import from_flat
from oneclip.config.toml_file import read_settings
from oneclip.train import RunCfg

RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("*.toml"))
NEEDED = {"data": "synthetic:100000", "out": "run"}
FINETUNE_NEEDED = {"model": "pocket", "reference": "none"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_valid_for_its_command(path: Path) -> None:
    if "oneclip finetune" in path.read_text(encoding="utf-8"):
        tuning = from_flat(FinetuneCfg, NEEDED | FINETUNE_NEEDED | read_settings(path, FinetuneCfg))
        assert tuning.method == path.stem.removeprefix("finetune-")
    else:
        cfg = from_flat(RunCfg, NEEDED | read_settings(path, RunCfg))
        assert cfg.train_cfg(10).steps >= 1
        assert cfg.model is None or zoo.architecture(str(cfg.model))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_how_to_run_it(path: Path) -> None:
    assert re.search(rf"recipes/{path.name}\b.*--out ", path.read_text(encoding="utf-8"))


SUMS = {
    "scratch-1gpu": [16 * 0.151, 2 * 0.151, 24.5e-3 * 2048, 16 * 2048**2 / 1e9],
    "scratch-8gpu": [8 * 512 * 16384 / 1e9],
    "scratch-many": [16 * 0.428 / 64, 16.9e-3 * 1024, 9.6e-3 * 1024, 8 * 768 * 65536 / 1e9],
    "finetune-lora": [4 * 0.151, 16 * 0.004, 2 * 0.151, 25.7e-3 * 256],
    "lit": [4 * 0.151, 12 * 0.0634, 2 * 0.151, 7.2e-3 * 4096, 16 * 4096**2 / 1e9],
}


@pytest.mark.parametrize("name", SUMS)
def test_the_sums_of_memory_are_right(name: str) -> None:
    path = next(path for path in RECIPES if path.stem == name)
    stated = re.findall(r"^#   \S.* x .*? ([\d.]+) GB$", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert [float(value) for value in stated] == [round(value, 1) for value in SUMS[name]]


@pytest.mark.usefixtures("undrawn")
def test_the_smoke_recipe_trains_and_writes_a_model(tmp_path: Path) -> None:
    smoke = next(path for path in RECIPES if path.stem == "cpu-smoke")
    assert cli(["train", str(smoke), "--out", str(tmp_path / "smoke")]) == ExitCode.OK
    assert oneclip.load(str(tmp_path / "smoke" / "model"), device="cpu").encode_texts(["a cat"]).shape[0] == 1
