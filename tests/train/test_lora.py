"""LoRA adapters: trained, merged, and read by peft itself."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import PIXELS, tiny_cfg
from torch import nn

from oneclip.config import CLIPVisionCfg, ModelCfg
from oneclip.errors import ConfigError, MissingExtraError
from oneclip.installation import install_command
from oneclip.model import build_model
from oneclip.train.finetune import Lora, interpolate

peft = pytest.importorskip("peft")

RESNET = CLIPVisionCfg(layers=(1, 1, 1, 1), width=8, image_size=PIXELS)
IMAGES = torch.rand(3, 3, PIXELS, PIXELS, generator=torch.Generator().manual_seed(0))
TEXTS = torch.tensor([[49406, 5, 49407, 0], [49406, 6, 7, 49407], [49406, 49407, 0, 0]])


def build(cfg: ModelCfg, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = build_model(cfg)
    for norm in model.modules():  # statistics as after a training
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(std=0.1)
            norm.weight.data.uniform_(0.5, 1.0)
    return model.eval()


def outputs(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([model.encode_image(IMAGES), model.encode_text(TEXTS)])


def trained(model: nn.Module, steps: int = 5) -> nn.Module:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        image, text = model.encode_image(IMAGES), model.encode_text(TEXTS)
        (image.tanh() * text.tanh()).sum().backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(params=["vit", "resnet"])
def cfg(request: pytest.FixtureRequest) -> ModelCfg:
    return tiny_cfg() if request.param == "vit" else replace(tiny_cfg(), vision_cfg=RESNET)


def test_the_model_computes_the_same_before_it_is_trained(cfg: ModelCfg) -> None:
    model = build(cfg)
    expected = outputs(model)
    Lora(model, rank=2)
    torch.testing.assert_close(outputs(model), expected)


def test_merged_weights_compute_the_same_as_adapters(cfg: ModelCfg) -> None:
    model = build(cfg)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    unlike = outputs(model)
    lora = Lora(model, rank=2)
    trained(model)
    expected = outputs(model)
    assert (expected - unlike).abs().max() > 1e-3
    plain = build(cfg, seed=1)
    plain.load_state_dict(lora.merged_weights(model.state_dict(), before))
    torch.testing.assert_close(outputs(plain), expected, rtol=1e-4, atol=1e-5)


def test_the_fused_projection_is_adapted_and_everything_else_is_frozen(cfg: ModelCfg) -> None:
    model = build(cfg)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    lora = Lora(model, rank=2)
    trained(model)
    after = lora.merged_weights(model.state_dict(), before)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(name.endswith("attn.in_proj_weight") for name in changed)
    assert all(name.endswith("weight") for name in changed)
    assert not any("running" in name or "ln_" in name or "embedding" in name for name in changed)


@pytest.mark.parametrize("alpha", [1.0, 0.4])
def test_peft_reads_the_adapters_scaled_as_the_weights_are(
    cfg: ModelCfg, tmp_path: Path, alpha: float
) -> None:
    model = build(cfg)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    lora = Lora(model, rank=2, alpha=3.0)
    trained(model)
    lora.write(tmp_path / "adapter", alpha)
    theirs = peft.PeftModel.from_pretrained(build(cfg), str(tmp_path / "adapter"))
    ours = build(cfg, seed=1)
    ours.load_state_dict(interpolate(before, lora.merged_weights(model.state_dict(), before), alpha))
    torch.testing.assert_close(outputs(theirs.base_model.model), outputs(ours), rtol=1e-4, atol=1e-5)


def test_adapters_depend_on_the_seed() -> None:
    first, again, other = (build(tiny_cfg()) for _ in range(3))
    for model, seed in ((first, 1), (again, 1), (other, 2)):
        Lora(model, rank=2, seed=seed)
    name = next(name for name in first.state_dict() if "lora_A" in name)
    assert torch.equal(first.state_dict()[name], again.state_dict()[name])
    assert not torch.equal(first.state_dict()[name], other.state_dict()[name])


def test_a_model_without_layers_to_adapt_is_refused() -> None:
    with pytest.raises(ConfigError, match="no linear layer"):
        Lora(nn.Sequential(nn.LayerNorm(3)))


def test_without_peft_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Callable[..., object]:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(MissingExtraError, match=re.escape(install_command("train"))):
        Lora(build(tiny_cfg()))


def test_freezing_a_timm_norm_keeps_its_activation() -> None:
    pytest.importorskip("timm")
    from oneclip.model.layers import freeze_batch_norm

    vision = CLIPVisionCfg(timm_model_name="resnet10t", image_size=PIXELS)
    model = build(replace(tiny_cfg(), vision_cfg=vision))
    timm_norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    expected = outputs(model)
    freeze_batch_norm(model)
    torch.testing.assert_close(outputs(model), expected)
    model.train()
    statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}
    outputs(model)
    assert timm_norms
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, statistics[name]), name
