"""Names and numbers in a file that no path, repository or model can have end in an error of the library."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import tiny_cfg

from oneclip.checkpoint import load, read, save, write_folder
from oneclip.errors import CheckpointError, OneCLIPError
from oneclip.model import build_model

PREFIXES = ["", "/", "./", "~", "~/", "owner/", "hf-hub:owner/", "é"]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONECLIP_OFFLINE", "1")


def test_a_long_path_cannot_be_read() -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        read("a" * 5000)


@pytest.mark.parametrize("path", ["a" * 5000, "é" * 200], ids=["long", "long in UTF-8"])
def test_a_long_folder_name_in_modules_json_is_refused(tmp_path: Path, path: str) -> None:
    modules = [{"idx": 0, "name": "0", "path": path, "type": "sentence_transformers.models.CLIPModel"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(CheckpointError, match="expected the name of a folder next to it"):
        load(tmp_path)


def test_a_long_shard_name_is_refused(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": "a" * 5000 + ".safetensors"}}))
    with pytest.raises(CheckpointError, match="expected the name of a weights file"):
        read(index)


@pytest.mark.parametrize("field", ["hf_tokenizer_name", "hf_model_name"])
@pytest.mark.parametrize("length", [300, 5000])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_long_name_of_a_tokenizer_or_text_tower_is_refused(
    tmp_path: Path, field: str, length: int, prefix: str
) -> None:
    if field == "hf_model_name":
        pytest.importorskip("transformers")
    cfg = tiny_cfg().to_dict()
    cfg["text_cfg"][field] = prefix + "a" * length
    content = {"model_cfg": cfg, "preprocess_cfg": {"size": 32}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(content))
    save(tmp_path / "open_clip_model.safetensors", build_model(tiny_cfg()).state_dict())
    with pytest.raises(OneCLIPError):
        load(tmp_path, device="cpu").tokenizer()


def test_more_layers_than_any_model_has_are_refused(tmp_path: Path) -> None:
    cfg = tiny_cfg().to_dict()
    cfg["vision_cfg"]["layers"] = 257
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": cfg}))
    save(tmp_path / "open_clip_model.safetensors", build_model(tiny_cfg()).state_dict())
    with pytest.raises(CheckpointError, match="layers"):
        load(tmp_path, device="cpu")


def test_a_folder_is_not_written_with_a_tokenizer_of_a_long_name(tmp_path: Path) -> None:
    cfg = tiny_cfg()
    cfg.text_cfg.hf_tokenizer_name = "/" + "a" * 300
    path = tmp_path / "model.safetensors"
    metadata = {"model_cfg": cfg.to_dict(), "preprocess_cfg": {"size": 32}}
    save(path, build_model(cfg).state_dict(), metadata)
    with pytest.raises(OneCLIPError):
        write_folder(load(path, device="cpu"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
