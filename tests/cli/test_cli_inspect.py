"""`oneclip inspect`: its report is correct, and no weights are read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from commandline import Run
from tiny import tiny_cfg

from oneclip import checkpoint, model
from oneclip.config import PreprocessCfg
from oneclip.zoo import catalogue

DOCS = Path(__file__).resolve().parents[2] / "docs" / "cli.md"
SECTION = DOCS.read_text(encoding="utf-8").partition("## `oneclip inspect`")[2].partition("\n## ")[0]


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return model.build_model(tiny_cfg()).state_dict()


def test_json_has_the_documented_fields(run: Run, pocket: Path) -> None:
    code, out, err = run("inspect", "pocket", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    block = json.loads(re.search(r"```json\n(.*?)```", SECTION, re.DOTALL)[1])  # type: ignore[index]
    assert found.keys() == block.keys()
    loaded = checkpoint.load("pocket", device="cpu")
    assert found["model_cfg"] == loaded.cfg.to_dict()
    assert found["preprocess_cfg"]["resize_mode"] == loaded.preprocess_cfg.resize_mode
    assert found["parameters"] == sum(p.numel() for p in loaded.model.parameters())
    assert found["loads"]


def test_the_table_shows_activation_and_loading(run: Run, pocket: Path) -> None:
    out = run("inspect", "pocket").out
    assert re.search(r"^activation +GELU \(by its own metadata\)$", out, re.MULTILINE)
    assert re.search(r"^loads +yes$", out, re.MULTILINE)


def test_no_model_is_built_and_no_numbers_are_read(
    run: Run, tmp_path: Path, weights: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "build_model", None)
    monkeypatch.setattr(torch, "frombuffer", None)
    monkeypatch.setattr("safetensors.safe_open", None)
    metadata = {"model_cfg": tiny_cfg().to_dict(), "preprocess_cfg": PreprocessCfg(size=32).to_dict()}
    for name in ("m.pt", "m.safetensors"):
        checkpoint.save(tmp_path / name, weights, metadata)
        found = json.loads(run("inspect", str(tmp_path / name), "--json").out)
        assert (found["loads"], found["activation"]) == (True, "GELU")
        assert found["dtypes"] == {"float32": sum(tensor.numel() for tensor in weights.values())}


def test_a_file_without_metadata_gets_matching_architectures(
    run: Run, tmp_path: Path, weights: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(catalogue._rows(), "tiny", tiny_cfg().to_dict())
    torch.save({"epoch": 3, "state_dict": weights, "state_dict_ema": {"a": torch.ones(1)}}, tmp_path / "m.pt")
    found = json.loads(run("inspect", str(tmp_path / "m.pt"), "--json").out)
    assert (found["architecture"], found["fits"]) == ("tiny", ["tiny"])
    assert (found["activation"], found["loads"]) == (None, False)
    assert f"name one, as in tiny:{tmp_path}/m.pt" in found["problem"]
    assert (found["format"], found["part"], found["other_parts"]) == (
        "training",
        "state_dict",
        ["state_dict_ema"],
    )
    assert found["metadata"] == {"epoch": 3}
    part = json.loads(run("inspect", str(tmp_path / "m.pt"), "--part", "state_dict_ema", "--json").out)
    assert (part["part"], part["parameters"]) == ("state_dict_ema", 1)
    assert run("inspect", str(tmp_path / "m.pt"), "--part", "optimizer").code == 1


def test_published_weights_that_are_not_here_are_described_and_not_fetched(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONECLIP_CACHE", str(tmp_path))
    monkeypatch.setenv("ONECLIP_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    found = json.loads(run("inspect", "ViT-B/32", "--json").out)
    assert (found["architecture"], found["activation"], found["files"]) == ("ViT-B-32", "QuickGELU", [])
    assert "oneclip pull ViT-B/32" in found["problem"]


def test_a_damaged_file_is_an_error(run: Run, tmp_path: Path) -> None:
    (tmp_path / "m.pt").write_bytes(b"PK\x03\x04")
    code, out, err = run("inspect", str(tmp_path / "m.pt"))
    assert (code, out) == (1, "")
    assert "truncated or damaged" in err


@pytest.mark.parametrize(
    ("name", "towers", "words"),
    [
        ("ViT-B-16-SigLIP:webli", [], "GELU (by"),
        ("ViT-B-16-SigLIP2:webli", ["text"], "GELU, its tanh approximation for text (by"),
        ("ViT-SO400M-16-SigLIP2-256:webli", ["image", "text"], "approximation for image and text (by"),
        ("ViT-B/32", [], "QuickGELU (by"),
    ],
)
def test_the_kind_of_gelu_is_shown(
    run: Run, monkeypatch: pytest.MonkeyPatch, name: str, towers: list[str], words: str
) -> None:
    monkeypatch.setattr("oneclip.hub.cached_weights", lambda *_: None)
    assert json.loads(run("inspect", name, "--json").out)["tanh_gelu"] == towers
    assert words in run("inspect", name).out


def test_a_model_beside_other_layers_is_found_by_its_prefix(run: Run, tmp_path: Path, weights: dict) -> None:
    other = {f"{prefix}.{name}": t for prefix in ("net", "teacher") for name, t in weights.items()}
    checkpoint.save(tmp_path / "m.pt", other, {"model_cfg": tiny_cfg().to_dict()})
    code, _, err = run("inspect", tmp_path / "m.pt")
    assert (code, "prefix='net.'" in err) == (1, True)
    found = json.loads(run("inspect", tmp_path / "m.pt", "--prefix", "net.", "--json").out)
    assert (found["loads"], found["tensors"]) == (True, len(weights))
    assert found["notes"] == [f"{tmp_path}/m.pt also contains teacher.* ({len(weights)}), not used"]


def test_a_file_without_a_model_is_reported(run: Run, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "m.pt", {"weight": torch.ones(5, 16), "bias": torch.ones(5)})
    found = json.loads(run("inspect", tmp_path / "m.pt", "--json").out)
    assert not found["loads"]
    assert "one linear layer" in found["problem"]
