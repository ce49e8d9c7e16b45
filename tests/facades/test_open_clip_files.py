"""Reading of configurations and weights files by `open_clip`."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import open_clip
from oneclip import zoo
from oneclip.checkpoint.formats import NativeCheckpoint
from oneclip.checkpoint.formats.big_vision import BigVision
from oneclip.config import ModelCfg
from oneclip.errors import CheckpointError, DownloadError
from open_clip import architectures
from open_clip.factory import load_state_dict
from open_clip.overrides import apply_overrides

PUBLISHED: dict[str, Any] = json.loads(
    gzip.decompress((Path(__file__).parents[1] / "zoo" / "open_clip_torch-3.3.0.json.gz").read_bytes())
)["architectures"]
SMALL: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "layers": 1, "width": 32, "head_width": 16},
    "text_cfg": {"context_length": 20, "vocab_size": 99, "width": 16, "heads": 2, "layers": 1},
}
OFTEN_LEFT_OUT = {"eos_id", "no_causal_mask", "attn_pooler_heads", "dim_head", "mlp_ratio", "n_queries"}


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Register architectures for one test."""
    return lambda name, cfg: monkeypatch.setitem(architectures._MODEL_CONFIGS, name, cfg)


class Gadget:
    """Object that creates a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_configuration_has_what_programs_subscript(name: str) -> None:
    ours, theirs = open_clip.get_model_config(name), PUBLISHED[name]
    assert ours.keys() == theirs.keys()
    for key, expected in theirs.items():
        if not isinstance(expected, dict):
            assert ours[key] == expected
            continue
        found = {field: ours[key][field] for field in expected if field in ours[key]}
        assert found == {field: expected[field] for field in found}
        assert expected.keys() - found.keys() <= OFTEN_LEFT_OUT
        for field in ("timm_model_name", "hf_model_name", "hf_tokenizer_name"):
            assert bool(ours[key].get(field)) == bool(expected.get(field))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_configuration_that_is_edited_by_nothing_is_the_zoos(name: str) -> None:
    assert ModelCfg.from_dict(apply_overrides(open_clip.get_model_config(name), {})) == zoo.architecture(name)


def test_a_file_that_runs_code_is_refused(registered: Any, tmp_path: Path) -> None:
    registered("small", SMALL)
    torch.save({"state_dict": {"a": torch.ones(1)}, "args": Gadget(tmp_path / "ran")}, tmp_path / "file.pt")
    for call in (load_state_dict, lambda path, **given: open_clip.create_model("small", path, **given)):
        with pytest.raises(CheckpointError):
            call(str(tmp_path / "file.pt"), weights_only=False)
    assert not (tmp_path / "ran").exists()


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": SMALL}))
    with pytest.raises((CheckpointError, DownloadError), match=r"open_clip_model\.safetensors"):
        open_clip.create_model(f"local-dir:{tmp_path}")
    assert open_clip.get_model_config(f"local-dir:{tmp_path}") == SMALL


def test_a_timm_tower_is_resized_to_the_image_size(registered: Any, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    vision = {"timm_model_name": "test_vit", "timm_pool": "", "image_size": 160}
    registered("small-timm", {**SMALL, "vision_cfg": vision})
    torch.save(open_clip.create_model("small-timm").state_dict(), tmp_path / "weights.pt")
    model = open_clip.create_model("small-timm", str(tmp_path / "weights.pt"), force_image_size=96)
    assert model.encode_image(torch.ones(1, 3, 96, 96)).shape == (1, 16)
    assert tuple(open_clip.image_transform(model.visual.image_size, False).cfg.size) == (96, 96)


def test_weights_are_found_under_every_name_that_training_leaves(registered: Any, tmp_path: Path) -> None:
    registered("small", SMALL)
    model = open_clip.create_model("small")
    state = model.state_dict()
    for prefix in ("", "module.", "_orig_mod.", "module._orig_mod."):
        torch.save({"epoch": 1, "state_dict": {prefix + k: v for k, v in state.items()}}, tmp_path / "run.pt")
        assert load_state_dict(tmp_path / "run.pt").keys() == state.keys()


def test_a_flat_checkpoint_loads_into_a_model_with_a_text_tower_of_its_own(
    registered: Any, tmp_path: Path
) -> None:
    registered("small", SMALL)
    flat = open_clip.create_model("small")
    torch.save(flat.state_dict(), tmp_path / "flat.pt")
    nested = open_clip.create_model("small", str(tmp_path / "flat.pt"), force_custom_text=True)
    assert isinstance(nested, open_clip.CustomTextCLIP)
    text = torch.tensor([[97, 5, 98, *[0] * 17]])
    torch.testing.assert_close(nested.encode_text(text), flat.encode_text(text))


def test_a_siglip_of_big_vision_loads_by_each_published_way(registered: Any, tmp_path: Path) -> None:
    vision = {
        "image_size": 32,
        "patch_size": 16,
        "layers": 2,
        "width": 32,
        "head_width": 16,
        "pool_type": "map",
    }
    text = {"context_length": 20, "vocab_size": 99, "width": 32, "heads": 2, "layers": 1}
    text |= {"no_causal_mask": True, "pool_type": "last", "proj_bias": True, "norm_kwargs": {"eps": 1e-6}}
    siglip = {
        "embed_dim": 32,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": vision,
        "text_cfg": text,
    }
    registered("small-siglip", siglip)
    made = open_clip.create_model("small-siglip")
    theirs = BigVision().write(NativeCheckpoint(made.state_dict(), ModelCfg.from_dict(siglip))).state_dict
    np.savez(tmp_path / "siglip.npz", **{name: tensor.numpy() for name, tensor in theirs.items()})

    at_once = open_clip.create_model("small-siglip", str(tmp_path / "siglip.npz"))
    later, by_hand = open_clip.create_model("small-siglip"), open_clip.create_model("small-siglip")
    open_clip.load_checkpoint(later, str(tmp_path / "siglip.npz"))
    open_clip.convert.load_big_vision_weights(by_hand, str(tmp_path / "siglip.npz"))
    for model in (at_once, later, by_hand):
        torch.testing.assert_close(model.state_dict(), made.state_dict(), rtol=0, atol=0)
    torch.save(made.state_dict(), tmp_path / "own.pt")
    with pytest.raises(CheckpointError, match="big_vision"):
        open_clip.convert.load_big_vision_weights(by_hand, str(tmp_path / "own.pt"))
