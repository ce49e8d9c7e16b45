"""Building models without initializing their weights."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from freed_memory import FILLINGS, fill_freed_memory
from torch import nn

from oneclip.checkpoint import build_uninitialized, load_into
from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg, MultimodalCfg
from oneclip.model import build_model

TEXT = {"context_length": 9, "vocab_size": 60, "width": 64, "heads": 1, "layers": 2}
VISION = {"layers": 2, "width": 64, "patch_size": 8, "image_size": 16}
MODELS = {
    "transformer": ModelCfg(16, CLIPVisionCfg(**VISION), CLIPTextCfg(**TEXT)),
    "resnet": ModelCfg(
        16, CLIPVisionCfg(layers=(1, 1, 1, 1), width=8, head_width=16, image_size=32), CLIPTextCfg(**TEXT)
    ),
    "sin-cos and pooling by attention": ModelCfg(
        16,
        CLIPVisionCfg(**VISION, pos_embed_type="sin_cos_2d", attentional_pool=True, attn_pooler_heads=4),
        CLIPTextCfg(**TEXT, ls_init_value=0.1),
    ),
    "SigLIP": ModelCfg(
        64,
        CLIPVisionCfg(layers=2, width=64, head_width=32, patch_size=8, image_size=16, pool_type="map"),
        CLIPTextCfg(**TEXT, no_causal_mask=True, pool_type="last", proj_bias=True),
        custom_text=True,
    ),
    "CoCa": ModelCfg(
        16,
        CLIPVisionCfg(**VISION, output_tokens=True),
        CLIPTextCfg(**TEXT, embed_cls=True, output_tokens=True),
        custom_text=True,
        multimodal_cfg=MultimodalCfg(context_length=9, width=64, heads=1, layers=1),
    ),
    "custom text": ModelCfg(
        16, CLIPVisionCfg(**VISION), CLIPTextCfg(**TEXT, embed_cls=True), custom_text=True
    ),
}


@pytest.mark.parametrize("filling", FILLINGS)
@pytest.mark.parametrize("name", MODELS)
def test_a_loaded_model_computes_the_same_as_the_original(name: str, filling: float) -> None:
    torch.manual_seed(0)
    model = build_model(MODELS[name]).eval()
    fill_freed_memory(filling)
    loaded = build_uninitialized(MODELS[name]).eval()
    load_into(loaded, model.state_dict(), source="the original")
    size = MODELS[name].vision_cfg.image_size
    pixels, ids = torch.randn(2, 3, size, size), torch.randint(1, 60, (2, 9))
    with torch.no_grad():
        ours, theirs = (each.encode_image(pixels) for each in (loaded, model))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
        ours, theirs = (each.encode_text(ids) for each in (loaded, model))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    weights = model.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in loaded.state_dict().items())
    buffers = dict(model.named_buffers())
    assert all(torch.equal(buffers[name], buffer) for name, buffer in loaded.named_buffers())
    assert [p.requires_grad for p in loaded.parameters()] == [p.requires_grad for p in model.parameters()]


def test_no_random_number_is_drawn() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    build_uninitialized(MODELS["transformer"])
    assert torch.equal(before, torch.get_rng_state())


def test_initialization_works_again_afterwards() -> None:
    build_uninitialized(MODELS["resnet"])
    assert torch.nn.init.normal_(torch.zeros(100)).any()
    assert torch.randn(100).std() > 0.5


class Rejecting(nn.Module):
    """Tower that draws a weight again until its values are in a range."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(64))
        numbers = self.weight.detach()
        numbers.normal_()
        while bool((numbers.abs() > 3).any()):
            numbers.copy_(torch.randn(64))


@pytest.mark.parametrize("filling", FILLINGS)
def test_an_initializer_that_reads_its_values_terminates(filling: float) -> None:
    before = torch.get_rng_state()
    fill_freed_memory(filling)
    weight = build_uninitialized(None, lambda cfg: Rejecting()).weight  # type: ignore[arg-type]
    assert weight.abs().max() <= 3
    assert torch.equal(torch.get_rng_state(), before)


def test_other_threads_build_initialized_models_meanwhile() -> None:
    def build(cfg: ModelCfg) -> nn.Module:
        with ThreadPoolExecutor(1) as other:
            beside = other.submit(nn.Linear, 4, 4).result()
        assert not beside.weight.is_meta
        assert math.isfinite(beside.weight.detach().abs().sum())
        return build_model(cfg)

    assert not build_uninitialized(MODELS["transformer"], build).visual.proj.is_meta
