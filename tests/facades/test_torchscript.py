"""Models with every kind of part can be compiled by TorchScript, saved and loaded, and return the same numbers."""

import io
from typing import Any

import pytest
import torch
from torch import Tensor

import clip
from open_clip import CLIP, CustomTextCLIP
from open_clip.transformer import VisionTransformer

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
# the blocks of these are the same in both classes, so one of them is enough; compiling takes a second or two
OF_ONE_CLASS = {"resnet": CLIP, "switches": CustomTextCLIP, "cosine": CLIP, "siglip": CustomTextCLIP}
CASES = [
    pytest.param(kind, part, id=f"{part}-{kind.__name__}")
    for part, (_, text_cfg, _) in PARTS.items()
    for kind in (CLIP, CustomTextCLIP)
    if kind is OF_ONE_CLASS.get(part, kind)
    and (kind is CustomTextCLIP or "embed_cls" not in text_cfg)  # a class token needs a tower of its own
]


def inputs(images: int, texts: int, length: int) -> tuple[Tensor, Tensor]:
    text = torch.zeros(texts, length, dtype=torch.long)
    text[:, 0], text[:, 1], text[:, 3] = 98, 7, 99
    return torch.randn(images, 3, 32, 32), text


@pytest.mark.parametrize(("kind", "part"), CASES)
def test_a_scripted_model_gives_the_same_numbers_after_saving(kind: type, part: str) -> None:
    vision, text_cfg, options = PARTS[part]
    torch.manual_seed(0)
    model = kind(64, vision, text_cfg, **options).eval()
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(model), file)
    file.seek(0)
    script = torch.jit.load(file)
    lengths = (
        (16, 16, 16) if text_cfg.get("no_causal_mask") else (16, 9, 4)
    )  # towers without a causal mask need full rows
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


def test_the_model_itself_does_not_change() -> None:
    model = CLIP(64, VIT, TEXT).eval()
    classes = [type(module) for module in model.modules()]
    script = torch.jit.script(model)
    assert [type(module) for module in model.modules()] == classes
    assert script.visual.proj is model.visual.proj


def test_methods_of_a_subclass_are_compiled() -> None:
    class Doubled(VisionTransformer):
        def run_blocks(self, x: Tensor) -> Tensor:
            return 2 * self.transformer(x)

    tower = Doubled(16, 8, 32, 1, 2, 2.0).eval()
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(torch.jit.script(tower)(x), tower(x))


def test_a_script_keeps_the_python_methods_of_the_published_package() -> None:
    model = CustomTextCLIP(64, VIT, TEXT)
    script = torch.jit.script(model)
    script.set_grad_checkpointing()
    assert script.no_weight_decay() == model.no_weight_decay()


@pytest.mark.parametrize(("layers", "patch"), [(2, 16), ((1, 1, 1, 1), None)], ids=["vit", "resnet"])
def test_a_model_of_clip_can_be_compiled(layers: Any, patch: int | None) -> None:
    model = clip.model.CLIP(64, 32, layers, 64, patch, 16, 100, 64, 1, 2).eval()
    images_, text = inputs(2, 2, 16)
    with torch.no_grad():
        for found, expected in zip(torch.jit.script(model)(images_, text), model(images_, text), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
