"""`config.toml` reproduces a run from any folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from oneclip.config.schema import from_flat
from oneclip.config.toml_file import read_settings
from oneclip.train import RunCfg, TrainCfg
from oneclip.train.repro_config import repro_config_toml, with_full_paths


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("pairs.csv", "weights.pt", "model.json", "ViT-B-32"):
        Path(name).touch()
    return tmp_path


def full(**settings: object) -> RunCfg:
    return with_full_paths(RunCfg(**({"data": "pairs.csv", "out": "run", "model": "ViT-B-32"} | settings)))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("pairs.csv", "{here}/pairs.csv"),
        ("pairs.csv@2", "{here}/pairs.csv@2"),
        ("shards/{000..009}.tar", "{here}/shards/{{000..009}}.tar"),
        ("shards/*.tar", "{here}/shards/*.tar"),
        ("s3://bucket/{000..009}.tar", "s3://bucket/{{000..009}}.tar"),
        ("synthetic:100", "synthetic:100"),
    ],
)
def test_a_source_is_written_in_full(here: Path, source: str, expected: str) -> None:
    assert full(data=source).data == expected.format(here=here)
    assert full(data=(source, "synthetic:5")).data == (expected.format(here=here), "synthetic:5")


def test_a_known_name_comes_before_a_file_of_that_name(here: Path) -> None:
    assert full().model == "ViT-B-32"
    assert full(model="model.json").model == f"{here}/model.json"
    assert full(pretrained="openai").pretrained == "openai"
    assert full(model=None, pretrained="pocket").pretrained == "pocket"


def test_weights_in_a_file_are_written_in_full(here: Path) -> None:
    assert full(pretrained="weights.pt").pretrained == f"{here}/weights.pt"
    assert full(model=None, pretrained="weights.pt").pretrained == f"{here}/weights.pt"
    assert full(model=None, pretrained="RN50:weights.pt").pretrained == f"RN50:{here}/weights.pt"


def test_missing_weights_keep_their_name(here: Path) -> None:
    assert full(pretrained="nowhere.pt").pretrained == "nowhere.pt"


def test_computed_settings_are_comments_and_start_options_are_left_out(here: Path) -> None:
    cfg = RunCfg(data="pairs.csv", out="run", model="RN50", resume="auto", train={"seed": 3})
    text = repro_config_toml(cfg, TrainCfg(steps=70, warmup=7))
    assert "# steps = 70\n" in text
    assert "# warmup = 7\n" in text
    (here / "config.toml").write_text(text)
    told = read_settings(here / "config.toml", RunCfg)
    assert {"resume", "preflight", "steps", "warmup"}.isdisjoint(told)
    assert from_flat(RunCfg, told).seed == 3
