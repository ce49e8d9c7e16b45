"""Parameter groups: weight decay, learning rates of towers, and locked towers."""

from __future__ import annotations

import pytest
import torch
from tiny_clip import TinyCLIP
from torch import nn

from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg
from oneclip.errors import ConfigError
from oneclip.model import build_model
from oneclip.train import TrainCfg, make_optimizer, parameter_groups
from oneclip.train.optimizer import lock_towers


def names_without_decay(model: nn.Module) -> set[str]:
    plain = {id(p) for p in parameter_groups([model], 0.2)[0]["params"]}
    return {name for name, p in model.named_parameters() if id(p) in plain}


def test_norms_biases_and_the_scale_do_not_decay(tiny: TinyCLIP) -> None:
    assert names_without_decay(tiny) == {"ln_final.weight", "ln_final.bias", "proj.bias", "logit_scale"}
    assert [group["weight_decay"] for group in parameter_groups([tiny], 0.2)] == [0.0, 0.2]


def test_in_a_resnet_clip_matrices_and_kernels_decay_and_batch_norms_do_not() -> None:
    vision = CLIPVisionCfg(layers=(1, 1, 1, 1), width=8, head_width=16, image_size=32)
    model = build_model(ModelCfg(16, vision, CLIPTextCfg(width=16, heads=2, layers=1, vocab_size=32)))
    plain = names_without_decay(model)
    decayed = {name for name, _ in model.named_parameters()} - plain
    assert {"visual.bn1.weight", "visual.layer1.0.bn1.weight", "transformer.resblocks.0.ln_1.weight"} <= plain
    assert {
        "visual.conv1.weight",
        "text_projection",
        "token_embedding.weight",
        "positional_embedding",
    } <= decayed
    assert not any(name.endswith("bias") for name in decayed)


def test_frozen_parameters_are_left_out_and_shared_ones_counted_once(tiny: TinyCLIP) -> None:
    tiny.proj.weight.requires_grad_(False)
    head = nn.Module()
    head.token_embedding = tiny.token_embedding
    groups = parameter_groups([tiny, head], 0.2)
    assert [p.shape for p in groups[1]["params"]] == [tiny.token_embedding.weight.shape]


def test_the_optimizer_has_the_requested_settings(tiny: TinyCLIP) -> None:
    optimizer = make_optimizer([tiny], TrainCfg(steps=1, lr=0.1, beta1=0.8, beta2=0.95, eps=1e-7))
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.defaults["betas"] == (0.8, 0.95)
    assert optimizer.defaults["eps"] == 1e-7


def test_sgd_has_the_requested_momentum_and_decays_the_same_weights(tiny: TinyCLIP) -> None:
    optimizer = make_optimizer([tiny], TrainCfg(steps=1, optimizer="sgd", lr=0.1, momentum=0.8))
    assert isinstance(optimizer, torch.optim.SGD)
    assert [(group["momentum"], group["weight_decay"]) for group in optimizer.param_groups] == [
        (0.8, 0.0),
        (0.8, 0.2),
    ]


def test_all_learn_at_one_rate_by_default(tiny: TinyCLIP) -> None:
    assert {group["lr_scale"] for group in parameter_groups([tiny], 0.2)} == {1.0}


@pytest.mark.parametrize(
    "wrong", [{"optimizer": "adam"}, {"momentum": 1.0}, {"layer_decay": 0.0}, {"layer_decay": 1.1}]
)
def test_settings_that_make_no_optimizer_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        TrainCfg.from_dict({"steps": 1, **wrong})


def small_clip() -> nn.Module:
    vision = CLIPVisionCfg(layers=1, width=16, head_width=8, patch_size=16, image_size=32)
    return build_model(ModelCfg(16, vision, CLIPTextCfg(width=16, heads=2, layers=1, vocab_size=32)))


def test_each_tower_may_have_a_learning_rate_of_its_own() -> None:
    model = small_clip()
    names = {p: name for name, p in model.named_parameters()}
    optimizer = make_optimizer([model], TrainCfg(steps=1, lr=1e-3, image_lr=1e-4, text_lr=2e-3))
    rates = {names[p]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates.keys() == set(names.values())
    assert {rate for name, rate in rates.items() if name.startswith("visual.")} == {1e-4}
    assert rates["logit_scale"] == 1e-3
    assert {rate for name, rate in rates.items() if not name.startswith(("visual.", "logit"))} == {2e-3}


def test_a_rate_of_0_locks_a_tower() -> None:
    model = small_clip()
    lock_towers(model, TrainCfg(steps=1, text_lr=0.0))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name for name in trained if not name.startswith("visual.")} == {"logit_scale"}
    assert "visual.conv1.weight" in trained


def test_a_rate_of_a_tower_that_is_not_known_is_refused(tiny: TinyCLIP) -> None:
    with pytest.raises(ConfigError, match="image_lr is set, but the towers of TinyCLIP are unknown"):
        lock_towers(tiny, TrainCfg(steps=1, image_lr=1e-4))
