"""`open_clip.factory` where it differs from the published one, and how programs use it."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny import tiny_cfg

import open_clip
from oneclip import checkpoint
from oneclip.errors import (
    CheckpointError,
    CheckpointMismatchError,
    ConfigError,
    UnknownModelError,
)
from oneclip.model import QuickGELU, build_model
from open_clip import architectures
from open_clip.sources import resolve_model

VISION = {"image_size": 32, "patch_size": 16, "layers": 1, "width": 32, "head_width": 16}
TEXT = {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
SMALL = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Register an architecture for one test."""
    known = dict(architectures._MODEL_CONFIGS)
    (tmp_path / "small.json").write_text(json.dumps(SMALL))
    open_clip.add_model_config(tmp_path / "small.json")
    yield "small"
    architectures._MODEL_CONFIGS.clear()
    architectures._MODEL_CONFIGS.update(known)


@pytest.fixture
def weights(small: str, tmp_path: Path) -> str:
    """Write a weights file for the architecture `small`."""
    torch.manual_seed(1)
    torch.save(open_clip.create_model(small).state_dict(), tmp_path / "weights.pt")
    return str(tmp_path / "weights.pt")


def activation(model: torch.nn.Module) -> type:
    return type(model.visual.transformer.resblocks[0].mlp.gelu)


# names


def test_published_weights_decide_the_activation() -> None:
    assert resolve_model("ViT-B-32", "openai", None, weights=False).model_cfg["quick_gelu"] is True
    assert resolve_model("ViT-B-32-quickgelu", "openai", None, weights=False).model_cfg["quick_gelu"] is True
    assert not resolve_model("ViT-B-32", "laion2b_s34b_b79k", None, weights=False).model_cfg.get("quick_gelu")
    assert not resolve_model("ViT-H-14-worldwide-378", "metaclip2_worldwide", None, False).model_cfg.get(
        "quick_gelu"
    )


def test_a_file_that_knows_its_activation_decides_it(small: str, tmp_path: Path) -> None:
    state_dict = open_clip.create_model(small).state_dict()
    metadata = {"model_cfg": {**SMALL, "quick_gelu": True}, "preprocess_cfg": {"mean": [0.5, 0.5, 0.5]}}
    checkpoint.save(tmp_path / "quick.safetensors", state_dict, metadata)
    model = open_clip.create_model(small, str(tmp_path / "quick.safetensors"))
    assert activation(model) is QuickGELU
    assert tuple(model.visual.preprocess_cfg["mean"]) == (0.5, 0.5, 0.5)


def test_a_bare_file_has_the_activation_of_its_architecture(small: str, weights: str) -> None:
    assert activation(open_clip.create_model(small, weights)) is torch.nn.GELU
    assert activation(open_clip.create_model(small, weights, force_quick_gelu=True)) is QuickGELU


def test_a_file_has_the_published_preprocessing_of_its_architecture() -> None:
    assert resolve_model("ViT-B-16-SigLIP", None, None).preprocess_cfg["resize_mode"] == "squash"
    assert resolve_model("ViT-B-16-SigLIP", None, None).preprocess_cfg["mean"] == (0.5, 0.5, 0.5)


def test_openais_spelling_and_slashes_are_known() -> None:
    for name in ("ViT-B/32", "ViT-B-32"):
        assert resolve_model(name, "openai", None, weights=False).model_cfg["vision_cfg"]["patch_size"] == 32
        assert open_clip.get_tokenizer(name).context_length == 77


def test_an_unknown_architecture_gets_the_nearest() -> None:
    for call in (open_clip.create_model, open_clip.get_tokenizer):
        with pytest.raises(UnknownModelError, match="ViT-B-32"):
            call("ViT-B-23")
    assert issubclass(UnknownModelError, RuntimeError)


def test_an_unknown_tag_gets_the_nearest_and_is_a_runtime_error() -> None:
    with pytest.raises(RuntimeError, match="laion2b_s34b_b79k"):
        open_clip.create_model("ViT-B-32", "laion2b_s34b_b97k")


def test_random_weights_are_refused_where_weights_are_required(small: str, weights: str) -> None:
    with pytest.raises(RuntimeError, match="openai"):
        open_clip.create_model_from_pretrained("RN50")
    with pytest.raises(UnknownModelError, match=r"set pretrained= to a file \(no weights are published\)\."):
        open_clip.create_model_from_pretrained("ViT-S-32-alt")
    with pytest.raises(RuntimeError, match="load_weights"):
        open_clip.create_model(small, weights, load_weights=False, require_pretrained=True)


def test_random_weights_are_logged(small: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        open_clip.create_model(small)
    assert "random" in caplog.text


def test_an_empty_location_is_named() -> None:
    for name in ("hf-hub:", "local-dir:"):
        with pytest.raises(ValueError, match="is incomplete"):
            open_clip.factory.parse_model_name(name)


def test_a_folder_without_a_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises((UnknownModelError, ValueError), match=r"open_clip_config\.json"):
        open_clip.create_model(f"local-dir:{tmp_path}")


# architectures


def test_a_program_may_register_an_architecture_in_the_table_itself(weights: str, small: str) -> None:
    from open_clip.factory import _MODEL_CONFIGS, HF_HUB_PREFIX

    assert not small.startswith(HF_HUB_PREFIX)
    _MODEL_CONFIGS["mine"] = {**SMALL, "quick_gelu": True}
    try:
        model, _, preprocess = open_clip.create_model_and_transforms(
            model_name="mine", pretrained=weights, image_mean=[0.5, 0.5, 0.5], image_resize_mode="squash"
        )
        assert preprocess.cfg.mean == (0.5, 0.5, 0.5)
        assert activation(model) is QuickGELU
        assert open_clip.get_tokenizer("mine").context_length == 20
        assert "mine" in open_clip.list_models()
    finally:
        del _MODEL_CONFIGS["mine"]


def test_a_program_may_register_a_folder_of_architectures_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from open_clip.factory import _MODEL_CONFIG_PATHS, _rescan_model_configs

    monkeypatch.setattr(architectures, "_MODEL_CONFIGS", dict(architectures._MODEL_CONFIGS))
    (tmp_path / "mine.json").write_text(json.dumps(SMALL))
    _MODEL_CONFIG_PATHS.append(tmp_path)
    try:
        _rescan_model_configs()
        assert "mine" in open_clip.list_models()
    finally:
        _MODEL_CONFIG_PATHS.remove(tmp_path)


def test_weights_that_a_program_adds_to_the_table_load_by_their_tag(
    small: str, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from open_clip.pretrained import _PRETRAINED

    monkeypatch.setitem(_PRETRAINED, small, {"mine": {"file": weights, "mean": (0.1, 0.2, 0.3)}})
    assert (small, "mine") in open_clip.list_pretrained()
    model = open_clip.create_model(small, "mine")
    state = torch.load(weights)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert open_clip.get_model_preprocess_cfg(model)["mean"] == (0.1, 0.2, 0.3)


def test_a_configuration_that_is_changed_changes_no_other() -> None:
    open_clip.get_model_config("ViT-B-32")["vision_cfg"]["width"] = 1
    assert open_clip.get_model_config("ViT-B-32")["vision_cfg"]["width"] == 768


def test_invalid_configurations_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(ConfigError, match="embed_dim"):
        open_clip.add_model_config(tmp_path / "a.json")
    with pytest.raises(ConfigError, match=r"b\.json"):
        open_clip.add_model_config(tmp_path)
    with pytest.raises(ConfigError, match="does not exist"):
        open_clip.add_model_config(tmp_path / "c.json")


def test_an_unknown_argument_is_an_unknown_field(small: str) -> None:
    with pytest.raises(ConfigError, match="init_logit_bias"):
        open_clip.create_model(small, init_logit_bais=1.0)


# towers


def test_a_tower_is_taken_out_of_a_whole_model(small: str, weights: str) -> None:
    whole = open_clip.create_model(small, weights)
    model = open_clip.create_model(small, pretrained_image_path=weights, pretrained_text_path=weights)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor) or name == "logit_scale"


@pytest.mark.parametrize("custom", [False, True])
def test_the_text_towers_file_leaves_the_visual_tower_alone(small: str, weights: str, custom: bool) -> None:
    whole = open_clip.create_model(small, weights, force_custom_text=custom)
    torch.save(whole.state_dict(), weights)
    model = open_clip.create_model(small, pretrained_text_path=weights, force_custom_text=custom)
    same = {
        name for name, tensor in whole.state_dict().items() if torch.equal(tensor, model.state_dict()[name])
    }
    text = "text." if custom else ""
    assert f"{text}token_embedding.weight" in same
    assert "visual.conv1.weight" not in same


def test_a_file_that_fits_no_tower_is_refused(small: str, tmp_path: Path) -> None:
    torch.save({"layer.weight": torch.ones(2)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointMismatchError, match=r"other\.pt"):
        open_clip.create_model(small, pretrained_image_path=str(tmp_path / "other.pt"))
    with pytest.raises((CheckpointError, OSError), match=r"none\.pt"):
        open_clip.create_model(small, pretrained_text_path=str(tmp_path / "none.pt"))


def test_missing_tensors_of_a_tower_file_are_named(small: str, weights: str, tmp_path: Path) -> None:
    visual = open_clip.create_model(small, weights).visual.state_dict()
    del visual["ln_post.bias"]
    torch.save(visual, tmp_path / "visual.pt")
    with pytest.warns(UserWarning, match=r"ln_post\.bias"):
        open_clip.create_model(small, pretrained_image_path=str(tmp_path / "visual.pt"))


# compiled


@pytest.mark.parametrize("options", [{}, {"output_dict": True}, {"force_custom_text": True}])
def test_a_traced_model_gives_the_features_of_the_model(
    small: str, weights: str, options: dict[str, Any]
) -> None:
    model = open_clip.create_model(small, weights, **options)
    traced = open_clip.trace_model(model, batch_size=2)
    image, text = torch.randn(3, 3, 32, 32), open_clip.get_tokenizer(small)(["a", "a longer caption", "b"])
    with torch.no_grad():
        torch.testing.assert_close(traced.encode_image(image), model.encode_image(image))
        torch.testing.assert_close(traced.encode_text(text), model.encode_text(text))
        torch.testing.assert_close(traced(image, text), model(image, text))
    assert traced.visual.image_size == (32, 32)
    assert model.encode_text(text[:1, :3]).shape == (1, 16)  # the model itself still accepts short texts


def test_a_traced_bf16_model_takes_bf16_images(small: str, weights: str) -> None:
    traced = open_clip.trace_model(open_clip.create_model(small, weights, precision="bf16"), batch_size=1)
    assert traced.encode_image(torch.ones(2, 3, 32, 32, dtype=torch.bfloat16)).shape == (2, 16)


def test_a_scripted_model_keeps_its_preprocessing(small: str, weights: str) -> None:
    model, _, preprocess = open_clip.create_model_and_transforms(
        small, weights, jit=True, image_mean=(0.5,) * 3
    )
    assert isinstance(model, torch.jit.ScriptModule)
    assert preprocess.cfg.mean == (0.5,) * 3
    assert model.encode_image(torch.ones(1, 3, 32, 32)).shape == (1, 16)


def test_a_model_that_cannot_be_scripted_is_returned_uncompiled() -> None:
    pytest.importorskip("timm")
    architectures._MODEL_CONFIGS["with-timm"] = {
        **SMALL,
        "vision_cfg": {"timm_model_name": "test_byobnet", "timm_pool": "avg", "image_size": 64},
    }
    try:
        model = open_clip.create_model("with-timm", jit=True)
        assert model.encode_image(torch.ones(1, 3, 64, 64)).shape == (1, 16)
    finally:
        del architectures._MODEL_CONFIGS["with-timm"]


# openai


def test_openais_models_are_loaded_with_quick_gelu(tmp_path: Path) -> None:
    from small_clip import save_state_dict

    path = tmp_path / "openai.pt"
    save_state_dict(path)
    model = open_clip.load_openai_model(str(path), device="cpu")
    assert activation(model) is QuickGELU
    assert not model.training
    assert model.visual.image_mean == open_clip.OPENAI_DATASET_MEAN
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    half = open_clip.load_openai_model(str(path), precision="bf16", device="cpu")
    assert half.visual.conv1.weight.dtype == torch.bfloat16
    assert half.ln_final.weight.dtype == torch.float32


def test_an_unknown_model_of_openais_gets_the_nearest() -> None:
    with pytest.raises(RuntimeError, match="ViT-B-32"):
        open_clip.load_openai_model("ViT-B-23")
    assert open_clip.list_openai_models()[0] == "RN50"


# losses


def test_the_sigmoid_loss_refuses_horovod() -> None:
    args = SimpleNamespace(distill=False, siglip=True, model="x", horovod=True, rank=0, world_size=1)
    with pytest.raises(ConfigError, match="Horovod"):
        open_clip.create_loss(args)


# other


def test_names_that_programs_read_of_the_tokenizer_module() -> None:
    from open_clip.tokenizer import _tokenizer

    assert _tokenizer.encoder["<end_of_text>"] == 49407
    assert open_clip.tokenizer._tokenizer.decode(_tokenizer.encode("a cat")).strip() == "a cat"


def test_a_checkpoint_of_a_softmax_model_gets_a_bias(small: str, weights: str) -> None:
    model = open_clip.create_model(small, weights, init_logit_bias=-10.0)
    assert model.logit_bias.item() == 0.0  # sigmoid training starts from the logits of the softmax model


def test_a_checkpoint_of_another_architecture_is_refused(small: str, tmp_path: Path) -> None:
    torch.save(open_clip.create_model(small, embed_dim=8).state_dict(), tmp_path / "other.pt")
    with pytest.raises(CheckpointMismatchError, match="text_projection"):
        open_clip.create_model(small, str(tmp_path / "other.pt"))


@pytest.mark.parametrize("pretrained", [True, False])
def test_timm_weights_are_used_only_if_requested(monkeypatch: pytest.MonkeyPatch, pretrained: bool) -> None:
    timm = pytest.importorskip("timm")
    given: list[bool] = []
    create = timm.create_model

    def spied(*args: Any, pretrained: bool = False, **kwargs: Any) -> torch.nn.Module:
        given.append(pretrained)
        return create(*args, pretrained=False, **kwargs)

    monkeypatch.setattr(timm, "create_model", spied)
    vision = {"timm_model_name": "test_vit", "timm_pool": "", "image_size": 160}
    monkeypatch.setitem(architectures._MODEL_CONFIGS, "with-timm", {**SMALL, "vision_cfg": vision})
    open_clip.create_model("with-timm", pretrained_image=pretrained)
    assert any(given) == pretrained


def test_a_folder_whose_configuration_is_of_a_far_larger_model_is_refused(tmp_path: Path) -> None:
    cfg = tiny_cfg()
    save_file(build_model(cfg).state_dict(), tmp_path / "open_clip_model.safetensors")
    cfg = replace(cfg, vision_cfg=replace(cfg.vision_cfg, layers=250, width=4096, head_width=64))
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": cfg.to_dict()}))
    with pytest.raises(CheckpointError, match="do not belong together"):
        open_clip.create_model(f"local-dir:{tmp_path}")
