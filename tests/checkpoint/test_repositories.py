"""Hub repositories in the format of transformers: which files are downloaded, and how they are resolved."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hub_server import Hub, in_this_process

from oneclip.checkpoint import load, save
from oneclip.checkpoint.formats import TransformersCLIP
from oneclip.checkpoint.formats.base import NativeCheckpoint
from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg, PreprocessCfg
from oneclip.errors import AmbiguousModelError, CheckpointError, OfflineError
from oneclip.model import build_model

VISION = CLIPVisionCfg(layers=1, width=32, head_width=16, patch_size=16, image_size=32)
CFG = ModelCfg(16, VISION, CLIPTextCfg(width=16, heads=2, layers=2), quick_gelu=True)
REPO = "own/clip"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with in_this_process(monkeypatch, tmp_path) as hub:
        yield hub


def files(folder: Path, suffix: str, shards: int = 1) -> dict[str, bytes]:
    """The files of a repository: configuration, preprocessing, weights in one file or in shards."""
    torch.manual_seed(0)
    published = TransformersCLIP().write(
        NativeCheckpoint(build_model(CFG).state_dict(), CFG, PreprocessCfg(size=32))
    )
    content = {
        "config.json": json.dumps(published.config).encode(),
        "preprocessor_config.json": json.dumps(published.preprocessor).encode(),
    }
    base = "model" if suffix == "safetensors" else "pytorch_model"
    names, weight_map = list(published.state_dict), {}
    for n in range(shards):
        shard = f"{base}.{suffix}" if shards == 1 else f"{base}-{n + 1:05}-of-{shards:05}.{suffix}"
        own = names[n::shards]
        save(folder / shard, {name: published.state_dict[name] for name in own})
        content[shard] = (folder / shard).read_bytes()
        weight_map |= dict.fromkeys(own, shard)
    if shards > 1:
        content[f"{base}.{suffix}.index.json"] = json.dumps({"weight_map": weight_map}).encode()
    return content


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize("shards", [1, 3])
def test_a_transformers_repository_loads(server: Hub, tmp_path: Path, suffix: str, shards: int) -> None:
    server.publish(REPO, files(tmp_path, suffix, shards))
    loaded = load(f"hf-hub:{REPO}")
    assert loaded.cfg.quick_gelu is True
    assert (loaded.preprocess_cfg, loaded.home) == (PreprocessCfg(size=32), f"hf-hub:{REPO}")
    torch.manual_seed(0)
    expected = build_model(CFG).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.model.state_dict().items())


def test_a_sharded_repository_loads_again_offline(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.publish(REPO, files(tmp_path, "safetensors", 2))
    load(f"hf-hub:{REPO}")
    asked = len(server.requests)
    monkeypatch.setenv("ONECLIP_OFFLINE", "1")
    assert load(f"hf-hub:{REPO}").cfg.quick_gelu is True
    assert len(server.requests) == asked
    with pytest.raises(OfflineError):
        load("hf-hub:own/other")


def test_an_index_with_a_path_downloads_nothing(server: Hub, tmp_path: Path) -> None:
    content = files(tmp_path, "safetensors", 2)
    content["model.safetensors.index.json"] = json.dumps(
        {"weight_map": {"w": "../../secret.safetensors"}}
    ).encode()
    server.publish(REPO, content)
    with pytest.raises(CheckpointError, match="expected the name of a weights file"):
        load(f"hf-hub:{REPO}")
    assert not [request for request in server.requests if "secret" in request.path]


def test_a_repository_without_preprocessing_is_refused(server: Hub, tmp_path: Path) -> None:
    content = files(tmp_path, "safetensors")
    del content["preprocessor_config.json"]
    server.publish(REPO, content)
    with pytest.raises(AmbiguousModelError, match="how images are prepared"):
        load(f"hf-hub:{REPO}")


def test_a_repository_of_another_kind_of_model_is_refused(server: Hub) -> None:
    server.publish(
        REPO, {"config.json": json.dumps({"model_type": "llama"}).encode(), "model.safetensors": b"x"}
    )
    with pytest.raises(CheckpointError):
        load(f"hf-hub:{REPO}")
