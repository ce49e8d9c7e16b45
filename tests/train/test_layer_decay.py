"""Lower layers of each kind of tower learn at lower rates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small_towers
import torch
from tiny_clip import Pairs, TinyCLIP
from torch import nn

from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg, MultimodalCfg
from oneclip.errors import ConfigError
from oneclip.model import build_model
from oneclip.train import TrainCfg, Trainer, make_optimizer, parameter_groups

DECAY = 0.5
VISION = CLIPVisionCfg(layers=3, width=32, head_width=16, patch_size=16, image_size=32)
TEXT = CLIPTextCfg(context_length=8, vocab_size=60, width=16, heads=2, layers=2)


def scales(model: nn.Module) -> dict[str, float]:
    """The factor of the learning rate, by the names of parameters."""
    groups = parameter_groups([model], 0.2, DECAY)
    by_parameter = {p: group["lr_scale"] for group in groups for p in group["params"]}
    return {name: by_parameter[p] for name, p in model.named_parameters()}


def model(
    vision: CLIPVisionCfg = VISION, text: CLIPTextCfg = TEXT, dim: int = 16, **options: Any
) -> nn.Module:
    return build_model(ModelCfg(dim, vision, text, **options))


def under(found: dict[str, float], prefix: str) -> set[float]:
    return {scale for name, scale in found.items() if name.startswith(prefix)}


def test_a_vision_transformer_decays_from_its_head_down_to_its_patches() -> None:
    found = scales(model())
    for name in ("conv1", "class_embedding", "positional_embedding", "ln_pre"):
        assert under(found, f"visual.{name}") == {0.5**4}
    for block in range(3):
        assert under(found, f"visual.transformer.resblocks.{block}") == {0.5 ** (3 - block)}
    for name in ("visual.ln_post", "visual.proj", "logit_scale"):
        assert under(found, name) == {1.0}


@pytest.mark.parametrize(("prefix", "options"), [("", {}), ("text.", {"custom_text": True})])
def test_a_text_tower_decays_flat_in_the_model_or_in_a_module_of_its_own(
    prefix: str, options: dict[str, bool]
) -> None:
    found = scales(model(**options))
    for name in ("token_embedding", "positional_embedding"):
        assert under(found, prefix + name) == {0.5**3}
    for block in range(2):
        assert under(found, f"{prefix}transformer.resblocks.{block}") == {0.5 ** (2 - block)}
    for name in ("ln_final", "text_projection"):
        assert under(found, prefix + name) == {1.0}


def test_a_resnet_decays_by_stages() -> None:
    vision = CLIPVisionCfg(layers=(1, 2, 1, 1), width=8, head_width=16, image_size=32)
    found = scales(model(vision))
    assert under(found, "visual.conv") == under(found, "visual.bn") == {0.5**5}
    for stage in range(1, 5):
        assert under(found, f"visual.layer{stage}") == {0.5 ** (5 - stage)}
    assert under(found, "visual.attnpool") == {1.0}


def test_a_siglip_tower_decays_by_blocks() -> None:
    vision = replace(VISION, layers=2, pool_type="map")
    found = scales(model(vision, dim=32))
    assert under(found, "visual.trunk.patch_embed") == under(found, "visual.trunk.pos_embed") == {0.5**3}
    assert under(found, "visual.trunk.blocks.0.") == {0.5**2}
    assert under(found, "visual.trunk.blocks.1.") == {0.5}
    assert under(found, "visual.trunk.norm") == under(found, "visual.trunk.attn_pool") == {1.0}


@pytest.mark.parametrize(
    "family", ["vit_clip", "eva02", "convnext", "resnet", "fastvit", "swin", "vitamin", "mobileclip_b"]
)
def test_a_timm_trunk_decays_as_in_timm(family: str) -> None:
    small_towers.register()
    from timm.optim import param_groups_layer_decay

    size = 64 if family == "fastvit" else 32
    vision = CLIPVisionCfg(
        timm_model_name=small_towers.timm_name(family), timm_pool="avg", timm_proj=None, image_size=size
    )
    clip = model(vision)
    found = scales(clip)
    trunk = clip.visual.trunk
    timms = {
        p: group["lr_scale"]
        for group in param_groups_layer_decay(trunk, layer_decay=DECAY)
        for p in group["params"]
    }
    assert all(found[f"visual.trunk.{name}"] == timms[p] for name, p in trunk.named_parameters())


def test_a_separate_head_is_above_a_timm_trunk() -> None:
    small_towers.register()
    vision = CLIPVisionCfg(
        timm_model_name=small_towers.timm_name("vit_clip"), timm_proj="linear", image_size=32
    )
    found = scales(model(vision))
    assert under(found, "visual.head.") == {1.0}
    assert under(found, "visual.trunk.blocks.1.") == {0.5}


@pytest.mark.parametrize("kind", list(small_towers.TEXT))
def test_a_text_tower_of_hugging_face_decays_by_blocks(kind: str, tmp_path: Path) -> None:
    text = CLIPTextCfg(
        hf_model_name=small_towers.text_folder(kind, tmp_path), hf_proj_type="mlp", context_length=8
    )
    found = scales(model(text=text))
    assert under(found, "text.proj") == {1.0}
    assert under(found, "text.transformer") >= {0.5, 0.5**2, 0.5**3}


def test_the_decoder_of_a_coca_is_above_both_towers() -> None:
    text = CLIPTextCfg(
        context_length=8, vocab_size=60, width=16, heads=2, layers=2, embed_cls=True, output_tokens=True
    )
    vision = CLIPVisionCfg(
        layers=1,
        width=32,
        head_width=16,
        patch_size=16,
        image_size=32,
        attentional_pool=True,
        output_tokens=True,
    )
    decoder = MultimodalCfg(context_length=8, vocab_size=60, width=16, heads=2, layers=1)
    found = scales(model(vision, text, multimodal_cfg=decoder))
    assert under(found, "text_decoder") == under(found, "visual.attn_pool") == {1.0}
    assert under(found, "text.cls_emb") == {0.5**3}


def test_a_model_without_towers_is_refused(tiny: TinyCLIP) -> None:
    with pytest.raises(ConfigError, match="layer_decay needs the towers of a dual encoder"):
        make_optimizer([tiny], TrainCfg(steps=1, layer_decay=0.7))


def test_a_tower_of_an_unknown_kind_is_refused() -> None:
    clip = model()
    clip.visual = nn.Linear(3, 16)
    with pytest.raises(ConfigError, match="layer_decay needs the layers of each tower"):
        parameter_groups([clip], 0.2, DECAY)


def test_training_moves_a_layer_by_its_share_of_the_learning_rate(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vision = CLIPVisionCfg(layers=1, width=32, head_width=16, patch_size=8, image_size=8)
    clip = model(vision, CLIPTextCfg(context_length=12, vocab_size=64, width=16, heads=2, layers=1))
    before = {name: p.detach().clone() for name, p in clip.named_parameters()}
    cfg = TrainCfg(steps=1, lr=1e-3, weight_decay=0.0, eps=1e-12, layer_decay=DECAY, schedule="constant")
    Trainer(clip, Pairs(), cfg).fit()
    moved = {name: float((p.detach() - before[name]).abs().max()) for name, p in clip.named_parameters()}
    # the first step of Adam is the learning rate, whatever the gradient
    assert moved["visual.proj"] == pytest.approx(1e-3, rel=1e-2)
    assert moved["visual.conv1.weight"] == pytest.approx(1e-3 * 0.5**2, rel=1e-2)


def test_a_training_with_layer_decay_resumes(tmp_path: Path) -> None:
    vision = CLIPVisionCfg(layers=1, width=32, head_width=16, patch_size=8, image_size=8)
    cfg = TrainCfg(steps=4, lr=1e-2, layer_decay=DECAY, schedule="constant")

    def trainer(out: Path) -> Trainer:
        torch.manual_seed(0)
        clip = model(vision, CLIPTextCfg(context_length=12, vocab_size=64, width=16, heads=2, layers=1))
        return Trainer(clip, Pairs(), cfg, out=out)

    whole, first, second = (trainer(tmp_path / name) for name in ("whole", "parts", "parts"))
    whole.fit()
    first.fit(until=2)
    first.save()
    second.resume(tmp_path / "parts")
    second.fit()
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, second.model.state_dict()[name]), name
