"""Models to load into: all of their weights come from the checkpoint, and all else is as it would be."""

from __future__ import annotations

import pytest
import torch

from oneclip.checkpoint import build_blank, load_into
from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg
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
    "custom text": ModelCfg(
        16, CLIPVisionCfg(**VISION), CLIPTextCfg(**TEXT, embed_cls=True), custom_text=True
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_blank_model_that_was_filled_computes_what_the_other_does(name: str) -> None:
    torch.manual_seed(0)
    model, blank = build_model(MODELS[name]).eval(), build_blank(MODELS[name]).eval()
    load_into(blank, model.state_dict(), source="the other")
    size = MODELS[name].vision_cfg.image_size
    pixels, ids = torch.randn(2, 3, size, size), torch.randint(1, 60, (2, 9))
    with torch.no_grad():
        for ours, theirs in zip(blank(pixels, ids), model(pixels, ids), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    buffers = dict(model.named_buffers())
    assert all(torch.equal(buffers[name], buffer) for name, buffer in blank.named_buffers())
    assert [p.requires_grad for p in blank.parameters()] == [p.requires_grad for p in model.parameters()]


def test_no_random_number_is_drawn() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    build_blank(MODELS["transformer"])
    assert torch.equal(before, torch.get_rng_state())


def test_random_numbers_are_drawn_again_afterwards() -> None:
    build_blank(MODELS["resnet"])
    assert torch.nn.init.normal_(torch.zeros(100)).any()
    assert torch.randn(100).std() > 0.5
