"""Models of every kind of part are scripted, saved, loaded, and give the same numbers for other sizes of batch."""

import io

import pytest
import torch
from torch import Tensor

from oneclip.model import CLIP, CustomTextCLIP

VIT = {"image_size": 32, "patch_size": 16, "layers": 2, "width": 64, "head_width": 32}
RESNET = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16, "head_width": 32}
TEXT = {"context_length": 16, "vocab_size": 100, "width": 64, "heads": 2, "layers": 2}
SWITCHES = dict.fromkeys(("qk_norm", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc"), True)

PARTS = {
    "plain": (VIT, TEXT, {"quick_gelu": True}),
    "resnet": (RESNET, TEXT, {"output_dict": True}),
    "switches": ({**VIT, **SWITCHES}, {**TEXT, **SWITCHES}, {"init_logit_bias": -1.0}),
    "cosine": ({**VIT, "scaled_cosine_attn": True}, {**TEXT, "scaled_cosine_attn": True}, {}),
    "attentional pool": (
        {**VIT, "attentional_pool": True, "attn_pooler_heads": 2},
        {**TEXT, "pool_type": "first"},
        {},
    ),
    "parallel pool": (
        {**VIT, "attentional_pool": "parallel", "attn_pooler_heads": 2, "output_tokens": True},
        {**TEXT, "ls_init_value": 0.1, "output_tokens": True},
        {"output_dict": True, "init_logit_bias": -1.0},
    ),
    "mean": (
        {**VIT, "pool_type": "avg", "final_ln_after_pool": True, "no_ln_pre": True, "patch_dropout": 0.5},
        {**TEXT, "no_causal_mask": True, "pool_type": "last", "proj_bias": True},
        {},
    ),
    "eos": (VIT, {**TEXT, "pool_type": "eos", "eos_id": 99}, {}),
    "siglip": (
        {**VIT, "pool_type": "map", "act_kwargs": {"approximate": "tanh"}},
        {**TEXT, "no_causal_mask": True, "pool_type": "last", "proj_bias": True},
        {"init_logit_bias": -10.0},
    ),
    "class token": (VIT, {**TEXT, "embed_cls": True}, {}),
}


def inputs(pictures: int, captions: int, length: int) -> tuple[Tensor, Tensor]:
    text = torch.zeros(captions, length, dtype=torch.long)
    text[:, 0], text[:, 1], text[:, 3] = 98, 7, 99
    return torch.randn(pictures, 3, 32, 32), text


@pytest.mark.parametrize("kind", [CLIP, CustomTextCLIP])
@pytest.mark.parametrize("part", PARTS)
def test_a_scripted_model_gives_the_same_numbers_after_saving(kind: type, part: str) -> None:
    vision, text_cfg, options = PARTS[part]
    if kind is CLIP and text_cfg.get("embed_cls"):
        pytest.skip("a class token needs a text tower of its own")
    torch.manual_seed(0)
    model = kind(64, vision, text_cfg, **options).eval()
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(model), file)
    file.seek(0)
    script = torch.jit.load(file)
    lengths = (16, 16, 16) if text_cfg.get("no_causal_mask") else (16, 9, 4)  # which reads whole rows only
    with torch.no_grad():
        for image, text in (inputs(n, 4 - n, length) for n, length in zip((2, 1, 3), lengths, strict=True)):
            ours, theirs = script(image, text), model(image, text)
            if isinstance(theirs, dict):
                assert ours.keys() == theirs.keys()
                ours, theirs = [ours[key] for key in theirs], list(theirs.values())
            for a, b in zip(ours, theirs, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
            features = model.encode_text(text)
            features = features[0] if isinstance(features, tuple) else features
            torch.testing.assert_close(script.encode_text(text), features, rtol=1e-4, atol=1e-5)
