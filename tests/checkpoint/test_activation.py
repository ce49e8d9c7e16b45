"""Sources of the activation of a checkpoint: they must agree, and an error asks if there is none."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_cfg
from torch import Tensor

from oneclip import zoo
from oneclip.checkpoint import load, resolve_checkpoint, save
from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg, PreprocessCfg
from oneclip.errors import AmbiguousModelError, ConfigError
from oneclip.model import build_model
from oneclip.zoo import catalogue

NAMES = {True: "QuickGELU", False: "GELU"}
TEXT = CLIPTextCfg(context_length=9, vocab_size=60, width=64, heads=1, layers=1)
UNPUBLISHED = ModelCfg(16, CLIPVisionCfg(layers=2, width=64, patch_size=8, image_size=16), TEXT)


def weights(seed: int = 0, cfg: ModelCfg | None = None) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return build_model(cfg or tiny_cfg()).state_dict()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A zoo with `tiny` and `tiny-quickgelu`, and weights of `tiny` with a URL (and checksum) and on the hub."""
    save(tmp_path / "official.pt", weights(1))
    digest = hashlib.sha256((tmp_path / "official.pt").read_bytes()).hexdigest()
    (tmp_path / "official.pt").rename(tmp_path / f"tiny-quickgelu-{digest[:8]}.pt")
    monkeypatch.setitem(catalogue._rows(), "tiny", tiny_cfg().to_dict())
    monkeypatch.setitem(catalogue._rows(), "tiny-quickgelu", {"like": "tiny", "quick_gelu": True})
    tags = {
        "first": {"url": f"open_clip:tiny-quickgelu-{digest[:8]}.pt", "quick_gelu": True},
        "second": {"hf_hub": "someone/tiny"},
        "third": {"hf_hub": "someone/tinies/third.bin", "quick_gelu": True},
        "fourth": {"hf_hub": "someone/tinies/fourth.bin"},
    }
    monkeypatch.setitem(catalogue._weight_table()["weights"], "tiny", tags)
    catalogue._weights_of.cache_clear()
    yield tmp_path
    catalogue._weights_of.cache_clear()


def official(folder: Path) -> Path:
    return next(folder.glob("tiny-quickgelu-*.pt"))


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_a_bare_file_loads_with_quick_gelu_given(folder: Path, quick_gelu: bool) -> None:
    save(folder / "m.pt", weights())
    loaded = load(folder / "m.pt", quick_gelu=quick_gelu)
    assert loaded.cfg == tiny_cfg(quick_gelu=quick_gelu)
    assert loaded.preprocess_cfg == zoo.preprocess_of("tiny")
    assert loaded.home == folder


def test_a_bare_file_with_unpublished_shapes_loads_with_all_facts_given(
    tmp_path: Path,
) -> None:
    save(tmp_path / "m.pt", weights(cfg=UNPUBLISHED))
    with pytest.raises(AmbiguousModelError, match="quick_gelu=True or quick_gelu=False"):
        load(tmp_path / "m.pt")
    assert load(tmp_path / "m.pt", quick_gelu=False, heads=1, preprocess="openai").cfg == UNPUBLISHED


def test_a_bare_file_of_an_unknown_format_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "m.pt", {"a.weight": torch.ones(3)})
    for quick_gelu in (None, True):
        with pytest.raises(AmbiguousModelError, match=r"put an open_clip_config\.json next to it"):
            load(tmp_path / "m.pt", quick_gelu=quick_gelu)


def test_a_file_that_matches_two_architectures_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tiny_cfg().to_dict()
    other["vision_cfg"] = other["vision_cfg"] | {"head_width": 8}
    monkeypatch.setitem(catalogue._rows(), "tiny-8", other)
    save(folder / "m.pt", weights())
    with pytest.raises(
        AmbiguousModelError, match=r"has the shapes of tiny-8 and tiny: name one, as in tiny:"
    ):
        load(folder / "m.pt", quick_gelu=False)


def test_a_published_file_is_identified_by_name_and_checksum(folder: Path) -> None:
    loaded = load(official(folder))
    assert loaded.cfg == tiny_cfg(quick_gelu=True)
    with pytest.raises(
        ConfigError, match="QuickGELU by the published weights tiny:first, and GELU by quick_gelu="
    ):
        load(official(folder), quick_gelu=False)


def test_a_published_name_with_another_checksum_is_ignored(folder: Path) -> None:
    path = official(folder)
    path.unlink()
    save(path, weights())
    with pytest.raises(AmbiguousModelError):
        load(path)


def test_a_renamed_published_file_is_identified_by_checksum(folder: Path) -> None:
    shutil.copy(official(folder), folder / "m.pt")
    assert load(folder / "m.pt").cfg.quick_gelu is True


def test_a_published_file_must_agree_with_the_architecture_named(folder: Path) -> None:
    path = official(folder)
    assert load(f"tiny-quickgelu:{path}").cfg.quick_gelu is True
    with pytest.raises(ConfigError, match=r"has QuickGELU, and tiny has GELU: load it as .*tiny-quickgelu:"):
        load(f"tiny:{path}")
    assert load(f"tiny:{path}", quick_gelu=True).cfg.quick_gelu is True


@pytest.mark.parametrize(
    ("repo", "file", "quick_gelu"),
    [("tiny", "m.bin", False), ("tinies", "third.bin", True), ("tinies", "fourth.bin", False)],
)
def test_a_file_in_the_hubs_cache_is_identified_by_its_repository(
    folder: Path, repo: str, file: str, quick_gelu: bool
) -> None:
    snapshot = folder / f"models--someone--{repo}" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    save(snapshot / file, weights())
    assert load(snapshot / file).cfg.quick_gelu is quick_gelu


def test_quick_gelu_false_does_not_change_a_quickgelu_architecture(folder: Path) -> None:
    save(folder / "m.pt", weights())
    assert load(f"tiny:{folder}/m.pt", quick_gelu=True).cfg.quick_gelu is True
    assert load(f"tiny:{folder}/m.pt", quick_gelu=False).cfg.quick_gelu is False
    with pytest.raises(ConfigError, match="has GELU, and tiny-quickgelu has QuickGELU"):
        load(f"tiny-quickgelu:{folder}/m.pt", quick_gelu=False)


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_metadata_must_agree_with_quick_gelu(folder: Path, quick_gelu: bool) -> None:
    cfg = tiny_cfg(quick_gelu=quick_gelu)
    save(folder / "m.pt", weights(), {"model_cfg": cfg.to_dict()})
    assert load(folder / "m.pt", quick_gelu=quick_gelu).cfg.quick_gelu is quick_gelu
    expected = f"{NAMES[quick_gelu]} by its own metadata, and {NAMES[not quick_gelu]} by quick_gelu="
    with pytest.raises(ConfigError, match=expected):
        load(folder / "m.pt", quick_gelu=not quick_gelu)


def test_metadata_with_other_heads_than_the_architecture_is_refused(folder: Path) -> None:
    cfg = tiny_cfg()
    cfg.vision_cfg.head_width = 8  # not visible in any shape
    save(folder / "m.pt", weights(), {"model_cfg": cfg.to_dict()})
    with pytest.raises(
        ConfigError, match=r"another architecture than tiny .*\(vision_cfg.head_width differ\)"
    ):
        load(f"tiny:{folder}/m.pt")
    assert load(folder / "m.pt").cfg == cfg


CLIP_CONFIG: dict[str, Any] = {
    "model_type": "clip",
    "projection_dim": 16,
    "vision_config": {
        "hidden_size": 32,
        "intermediate_size": 128,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 16,
    },
    "text_config": {
        "hidden_size": 16,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 77,
        "vocab_size": 300,
        "eos_token_id": 2,
    },
}
PIXELS = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 32}, "crop_size": 32}


@pytest.fixture
def transformers_folder(tmp_path: Path) -> Path:
    """A folder written by transformers, with its default `hidden_act`."""
    import transformers

    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        **{key: value for key, value in CLIP_CONFIG.items() if key != "model_type"}
    )
    transformers.CLIPModel(config).save_pretrained(tmp_path / "hf")
    (tmp_path / "hf" / "preprocessor_config.json").write_text(json.dumps(PIXELS))
    return tmp_path / "hf"


@pytest.mark.parametrize("how", ["folder", "local-dir", "file"])
def test_a_transformers_folder_has_its_activation(transformers_folder: Path, how: str) -> None:
    name = {
        "folder": str(transformers_folder),
        "local-dir": f"local-dir:{transformers_folder}",
        "file": str(transformers_folder / "model.safetensors"),
    }[how]
    loaded = load(name)
    assert loaded.cfg.quick_gelu is True
    assert loaded.preprocess_cfg == PreprocessCfg(size=32)
    assert loaded.home == transformers_folder
    with pytest.raises(ConfigError, match=r"QuickGELU by config\.json"):
        load(name, quick_gelu=False)


def test_a_sharded_transformers_folder_loads(transformers_folder: Path) -> None:
    import transformers

    whole = load(transformers_folder).model.state_dict()
    model = transformers.CLIPModel.from_pretrained(transformers_folder)
    (transformers_folder / "model.safetensors").unlink()
    model.save_pretrained(transformers_folder, max_shard_size="20KB")
    assert len(list(transformers_folder.glob("model-*.safetensors"))) > 1
    found = load(transformers_folder).model.state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in whole.items())


def test_a_transformers_folder_without_preprocessor_is_refused(transformers_folder: Path) -> None:
    (transformers_folder / "preprocessor_config.json").unlink()
    with pytest.raises(AmbiguousModelError, match=r"how images are prepared.*preprocessor_config\.json"):
        load(transformers_folder)


def test_a_transformers_file_without_config_is_refused(transformers_folder: Path, folder: Path) -> None:
    shutil.copy(transformers_folder / "model.safetensors", folder / "bare.safetensors")
    with pytest.raises(AmbiguousModelError, match="does not say which activation"):
        load(folder / "bare.safetensors")


def test_resolving_needs_no_values(folder: Path) -> None:
    save(folder / "m.pt", weights(), {"model_cfg": tiny_cfg().to_dict()})
    found = resolve_checkpoint(zoo.resolve(folder / "m.pt"), values=False)
    assert found.cfg == tiny_cfg()
    assert found.activation_source == "its own metadata"
    assert all(tensor.is_meta for tensor in found.checkpoint.state_dict.values())
