"""Architectures and weights equal the published ones."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from oneclip import zoo
from oneclip.config import OPENAI_MEAN, OPENAI_STD, ModelCfg, PreprocessCfg
from oneclip.errors import UnknownModelError

PUBLISHED: dict[str, Any] = json.loads(
    gzip.decompress(Path(__file__).with_name("open_clip_torch-3.3.0.json.gz").read_bytes())
)
"""Models of open_clip_torch 3.3.0, exported from that package."""

OTHER_SOURCE = {("ViT-B-16-plus-240", "laion400m_e32")}
"""Weights whose repository in that package contains other weights (of the epoch before). Here they have only a URL."""


def test_every_published_architecture_is_known() -> None:
    assert sorted(zoo.architectures()) == sorted(PUBLISHED["architectures"])
    assert len(zoo.architectures()) == 144


@pytest.mark.parametrize("name", PUBLISHED["architectures"])
def test_an_architecture_has_the_published_numbers(name: str) -> None:
    assert zoo.architecture(name) == ModelCfg.from_dict(PUBLISHED["architectures"][name])


def test_all_published_weights_are_known() -> None:
    known = {(name, tag) for name in zoo.architectures() for tag in zoo.pretrained_tags(name)}
    assert known == {(row["model"], row["tag"]) for row in PUBLISHED["weights"]}
    assert len(known) == 196


@pytest.mark.parametrize("row", PUBLISHED["weights"], ids=lambda row: f"{row['model']}:{row['tag']}")
def test_weights_have_the_published_facts(row: dict[str, Any]) -> None:
    found = zoo.pretrained(row["model"], row["tag"])
    hub = None if (row["model"], row["tag"]) in OTHER_SOURCE else row["hf_hub"].rstrip("/")
    assert (found.architecture, found.tag, found.url, found.hf_hub) == (
        row["model"],
        row["tag"],
        row.get("url"),
        hub,
    )
    assert (list(found.mean), list(found.std)) == (row["mean"], row["std"])
    assert (found.interpolation, found.resize_mode) == (row["interpolation"], row["resize_mode"])
    assert found.quick_gelu == row.get("quick_gelu")
    assert found.url or found.hf_hub


def test_openais_names_and_files() -> None:
    assert list(zoo.OPENAI_NAMES) == [
        "RN50", "RN101", "RN50x4", "RN50x16", "RN50x64", "ViT-B/32", "ViT-B/16", "ViT-L/14", "ViT-L/14@336px",
    ]  # fmt: skip
    for name in zoo.OPENAI_NAMES:
        weights = zoo.pretrained(name, "openai")
        assert weights.quick_gelu is True
        assert weights.sha256 is not None
        assert len(weights.sha256) == 64
        assert weights.url is not None
        assert weights.url.split("/")[-2] == weights.sha256
        assert (weights.mean, weights.std) == (OPENAI_MEAN, OPENAI_STD)
    assert zoo.architecture("ViT-L/14@336px") == zoo.architecture("ViT-L-14-336")


@pytest.mark.parametrize(
    ("name", "tag", "sha256"),
    [
        ("RN50", "yfcc15m", "455df137"),
        ("ViT-B-32", "laion2b_e16", "af8dbd0c"),
        ("ViT-B-32", "metaclip_400m", None),
        ("ViT-B-32", "laion2b_s34b_b79k", None),
    ],
)
def test_checksums_are_taken_from_urls(name: str, tag: str, sha256: str | None) -> None:
    assert zoo.pretrained(name, tag).sha256 == sha256


def test_tags_are_found_in_other_spellings() -> None:
    assert zoo.pretrained("ViT-B-32", "LAION2B-s34B-b79K").tag == "laion2b_s34b_b79k"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "ViT-B-16-SigLIP-384",
            PreprocessCfg(size=384, mean=(0.5,) * 3, std=(0.5,) * 3, resize_mode="squash"),
        ),
        ("ViT-L-14", PreprocessCfg(size=224)),  # its weights have different preprocessing
        ("ViT-S-16", PreprocessCfg(size=224)),  # it has no weights
        ("RN50x64", PreprocessCfg(size=448)),
    ],
)
def test_preprocessing_of_an_architecture(name: str, expected: PreprocessCfg) -> None:
    assert zoo.preprocess_of(name) == expected


def test_configurations_are_not_shared() -> None:
    zoo.architecture("ViT-B-32").vision_cfg.width = 1
    assert zoo.architecture("ViT-B-32").vision_cfg.width == 768


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: zoo.architecture("ViT-B-23"),
            "'ViT-B-23' is not a known architecture; did you mean ViT-B-32",
        ),
        (lambda: zoo.pretrained_tags("nothing like it"), "is not a known architecture"),
        (lambda: zoo.pretrained("ViT-B-32", "laion2b"), "tag of ViT-B-32; did you mean laion2b_e16"),
        (lambda: zoo.pretrained("ViT-S-16", "openai"), "ViT-S-16 has no published weights"),
    ],
)
def test_unknown_names_get_the_nearest(call: Any, message: str) -> None:
    with pytest.raises(UnknownModelError, match=message):
        call()


@pytest.mark.parametrize("name", ["architectures.json", "weights.json"])
def test_the_data_has_a_line_for_each_row(name: str) -> None:
    text = (Path(zoo.__file__).parent / name).read_text(encoding="utf-8")
    rows = json.loads(text)
    if name == "architectures.json":
        assert len(text.splitlines()) == len(rows) + 2
    else:
        assert sum(len(tags) for tags in rows["weights"].values()) == text.count('"hf_hub"') + 1
    assert all(line.count('": {') < 6 for line in text.splitlines())


def test_the_zoo_loads_neither_torch_nor_data_when_it_is_imported() -> None:
    program = (
        "import sys, oneclip.zoo as z; print('torch' in sys.modules, z.catalogue._rows.cache_info().currsize)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "0"]
