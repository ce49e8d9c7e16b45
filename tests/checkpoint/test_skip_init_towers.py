"""Building towers of timm and transformers without initializing their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import small_towers
import torch
from freed_memory import FILLINGS, fill_freed_memory
from torch import nn

from oneclip.checkpoint import build_uninitialized, load_into
from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg
from oneclip.errors import ConfigError
from oneclip.model import build_model

VISION = CLIPVisionCfg(layers=1, width=32, head_width=16, patch_size=16, image_size=32)
TEXT = CLIPTextCfg(context_length=8, vocab_size=60, width=32, heads=2, layers=1)


@pytest.fixture(autouse=True, scope="module")
def _small_members() -> None:
    small_towers.register()


def configuration(family: str, folder: Path) -> ModelCfg:
    if family in small_towers.TEXT:
        text = CLIPTextCfg(
            hf_model_name=small_towers.text_folder(family, folder), hf_pooler_type="mean_pooler"
        )
        return ModelCfg(16, VISION, text)
    size = (64, 32) if family not in ("fastvit", "fastvit_five", "resnet") else 64
    pool = {"pe_core": "map", "pe_core_large": "map", "resnet": "abs_attn"}.get(family, "avg")
    vision = CLIPVisionCfg(timm_model_name=small_towers.timm_name(family), image_size=size, timm_pool=pool)
    return ModelCfg(16, vision, TEXT)


@pytest.mark.parametrize("family", [*small_towers.TIMM, *small_towers.TEXT])
def test_a_loaded_tower_computes_the_same_as_the_original(family: str, tmp_path: Path) -> None:
    cfg = configuration(family, tmp_path)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    size = cfg.vision_cfg.image_size
    pixels = torch.randn(2, 3, *(size if isinstance(size, tuple) else (size, size)))
    with torch.no_grad():
        ids = torch.randint(4, 60, (2, 8))
        images, texts = model.encode_image(pixels), model.encode_text(ids)
    for filling in FILLINGS:
        filled = loaded_after(filling, cfg, model)
        with torch.no_grad():
            torch.testing.assert_close(filled.encode_image(pixels), images, rtol=0, atol=0)
            torch.testing.assert_close(filled.encode_text(ids), texts, rtol=0, atol=0)


def loaded_after(filling: float, cfg: ModelCfg, model: nn.Module) -> Any:
    """Build a model where freed memory contains `filling`, load the weights of another, and compare both."""
    built: list[ModelCfg] = []

    def build(of: ModelCfg) -> nn.Module:
        built.append(of)
        return build_model(of)

    fill_freed_memory(filling)
    before = torch.get_rng_state()
    filled = build_uninitialized(cfg, build).eval()
    assert torch.equal(before, torch.get_rng_state())
    assert len(built) == 1  # none of these towers needs values, so none is initialized
    load_into(filled, model.state_dict(), source="the original")
    weights, buffers = filled.state_dict(), dict(filled.named_buffers())
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    assert buffers.keys() == dict(model.named_buffers()).keys()
    assert all(torch.equal(buffers[name], buffer) for name, buffer in model.named_buffers())
    assert [p.requires_grad for p in filled.parameters()] == [p.requires_grad for p in model.parameters()]
    return filled


class Odd(nn.Module):
    """Tower that computes a buffer from a weight, which needs the values of the weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("doubled", self.weight.detach() * 2)


def test_a_tower_that_needs_values_while_it_is_built_gets_them() -> None:
    assert torch.equal(build_uninitialized(None, lambda cfg: Odd()).doubled, torch.full((3,), 2.0))  # type: ignore[arg-type]


class Tied(nn.Module):
    """Two layers that share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight


def test_a_shared_weight_stays_shared() -> None:
    tied = build_uninitialized(None, lambda cfg: Tied())  # type: ignore[arg-type]
    assert tied.first.weight is tied.second.weight
    assert tied.first.weight.device.type == "cpu"


def test_an_error_of_the_configuration_is_raised() -> None:
    def build(cfg: ModelCfg) -> nn.Module:
        raise ConfigError("no such tower")

    with pytest.raises(ConfigError, match="no such tower"):
        build_uninitialized(ModelCfg(16, VISION, TEXT), build)


def test_parameters_have_memory_afterwards() -> None:
    build_uninitialized(ModelCfg(16, VISION, TEXT))
    assert not nn.Linear(2, 2).weight.is_meta
