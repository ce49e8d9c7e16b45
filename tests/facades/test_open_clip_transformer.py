"""`open_clip.transformer`: the classes of model parts, and arguments that they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import open_clip
from oneclip.errors import ConfigError
from open_clip import transformer

VIT = {"image_size": 16, "patch_size": 8, "layers": 1, "width": 32, "head_width": 16}
TEXT = {"context_length": 8, "vocab_size": 40, "width": 32, "heads": 2, "layers": 1}


@pytest.fixture(scope="module")
def model() -> open_clip.CustomTextCLIP:
    return open_clip.CustomTextCLIP(16, {**VIT, "ls_init_value": 0.1}, TEXT)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("visual", "VisionTransformer"),
        ("visual.transformer", "Transformer"),
        ("visual.transformer.resblocks.0", "ResidualAttentionBlock"),
        ("visual.transformer.resblocks.0.ls_1", "LayerScale"),
        ("visual.ln_pre", "LayerNorm"),
        ("text", "TextTransformer"),
        ("text.transformer", "Transformer"),
    ],
)
def test_parts_of_a_model_are_instances_of_the_published_classes(model: Any, path: str, kind: str) -> None:
    part, cls = model.get_submodule(path), getattr(transformer, kind)
    assert isinstance(part, cls)
    assert issubclass(type(part), cls)
    assert not isinstance(nn.Linear(1, 1), cls)


def test_a_class_of_ones_own_recognizes_its_own_instances_only(model: Any) -> None:
    class Mine(transformer.ResidualAttentionBlock):
        pass

    assert isinstance(Mine(32, 2), Mine)
    assert isinstance(Mine(32, 2), transformer.ResidualAttentionBlock)
    assert not isinstance(model.visual.transformer.resblocks[0], Mine)


def test_a_wrapping_policy_finds_the_blocks(model: Any) -> None:
    from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

    kinds = {transformer.ResidualAttentionBlock}
    found = [m for m in model.modules() if transformer_auto_wrap_policy(m, False, 0, kinds)]
    assert len(found) == 2


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("CustomResidualAttentionBlock", {"d_model": 32, "n_head": 2, "batch_first": False}),
        ("Transformer", {"width": 32, "layers": 1, "heads": 2, "block_type": "fast"}),
        ("CustomTransformer", {"width": 32, "layers": 1, "heads": 2, "block_types": "Fast"}),
    ],
)
def test_unsupported_arguments_are_refused(name: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=list(arguments)[-1]):
        getattr(transformer, name)(**arguments)


@pytest.mark.parametrize("pool", ["argmax", "eos"])
def test_pooling_by_a_token_needs_the_tokens(pool: str) -> None:
    with pytest.raises(ConfigError, match="give text"):
        transformer.text_global_pool(torch.zeros(1, 2, 3), pool_type=pool)
    assert transformer.text_global_pool(torch.ones(1, 2, 3), pool_type="last").shape == (1, 3)


def test_an_unknown_pool_type_is_named() -> None:
    with pytest.raises(ConfigError, match="'mean'; expected one of argmax"):
        transformer.text_global_pool(torch.zeros(1, 2, 3), pool_type="mean")


def test_the_text_tower_of_either_kind_of_model_is_locked() -> None:
    for kind in (open_clip.CLIP, open_clip.CustomTextCLIP):
        made = kind(16, VIT, TEXT)
        transformer.lock_text_tower(made, unlocked_layers=1)
        free = {name.removeprefix("text.") for name, p in made.named_parameters() if p.requires_grad}
        assert {name for name in free if not name.startswith(("visual.", "logit_"))} == {"text_projection"}


def test_layer_norm_in_fp32_takes_weights_of_any_precision() -> None:
    norm, x = transformer.LayerNormFp32(8), torch.randn(2, 8)
    expected = norm(x)
    found = norm.bfloat16()(x.bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=2e-2, atol=2e-2)


def test_a_tower_of_published_arguments_can_be_scripted() -> None:
    tower = transformer.VisionTransformer(16, 8, 32, 1, 2, 2.0, act_layer=transformer.QuickGELU).eval()
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(torch.jit.script(tower)(x), tower(x))
