"""SigLIP's image tower has a plan with its published parts only; with any other part the plain module computes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from engine_models import assert_same, random_images, small_model
from torch import nn

from oneclip.engine.plan import Plan, make_image_plan

BLOCK = "trunk.blocks.1"
PASSED = (  # parts that return their input
    "trunk.patch_embed.norm",
    "trunk.pos_drop",
    "trunk.patch_drop",
    "trunk.norm_pre",
    "trunk.fc_norm",
    "trunk.head_drop",
    "trunk.head",
    *(f"{BLOCK}.{part}" for part in ("ls1", "drop_path1", "ls2", "drop_path2")),
    *(f"{BLOCK}.attn.{part}" for part in ("q_norm", "k_norm", "attn_drop", "norm", "proj_drop")),
    *(f"{BLOCK}.mlp.{part}" for part in ("drop1", "norm", "drop2")),
    *(f"trunk.attn_pool.{part}" for part in ("q_norm", "k_norm", "proj_drop")),
    *(f"trunk.attn_pool.mlp.{part}" for part in ("drop1", "norm", "drop2")),
)
COMPUTED = (
    "trunk.norm",
    "trunk.blocks",
    "trunk.attn_pool",
    BLOCK,
    *(f"{BLOCK}.{part}" for part in ("norm1", "attn", "norm2", "mlp")),
    *(f"{BLOCK}.attn.{part}" for part in ("qkv", "proj")),
    *(f"{BLOCK}.mlp.{part}" for part in ("fc1", "act", "fc2")),
    *(f"trunk.attn_pool.{part}" for part in ("q", "kv", "proj", "norm", "mlp")),
    *(f"trunk.attn_pool.mlp.{part}" for part in ("fc1", "act", "fc2")),
)


class Halved(nn.Module):
    """Module whose output is halved, with its weights under the same names."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base"), name)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self.base(*inputs, **named) / 2


def model(**changes: Any) -> Any:
    return small_model(
        {"pool_type": "map", **changes},
        {"no_causal_mask": True, "pool_type": "last", "proj_bias": True},
        custom_text=True,
    )


def plan_features(plan: Plan) -> torch.Tensor | None:
    with torch.inference_mode():
        return plan(random_images())


def plain_features(built_model: Any) -> torch.Tensor:
    with torch.inference_mode():
        features: torch.Tensor = built_model.encode_image(random_images())
        return features


@pytest.mark.parametrize("path", [*PASSED, *COMPUTED])
def test_a_tower_with_a_replaced_part_has_no_plan(path: str) -> None:
    built_model = model()
    plan = make_image_plan(built_model, "fp32")
    assert_same(plan_features(plan), plain_features(built_model))
    part = built_model.visual.get_submodule(path)
    built_model.visual.set_submodule(path, Halved(part).eval())
    assert plan_features(plan) is None
    assert plan.describe().startswith("the plain module")
    built_model.visual.set_submodule(path, part)
    assert_same(plan_features(plan), plain_features(built_model))


def add_a_head(visual: Any) -> None:
    visual.head.append(nn.Linear(64, 5))


def add_a_classifier(visual: Any) -> None:
    visual.trunk.reset_classifier(10)


def pool_the_mean(visual: Any) -> None:
    visual.trunk.reset_classifier(0, "avg")


def drop_in_training(visual: Any) -> None:
    visual.trunk.pos_drop.p = 0.5
    visual.trunk.pos_drop.train()


def attend_in_steps(visual: Any) -> None:
    visual.trunk.blocks[0].attn.fused_attn = False


def pool_in_steps(visual: Any) -> None:
    visual.trunk.attn_pool.fused_attn = False


def take_other_images(visual: Any) -> None:
    visual.trunk.set_input_size(48)


def add_prefix_tokens(visual: Any) -> None:
    visual.trunk.num_prefix_tokens = 1


@pytest.mark.parametrize(
    "change",
    [
        add_a_head,
        add_a_classifier,
        pool_the_mean,
        drop_in_training,
        attend_in_steps,
        pool_in_steps,
        take_other_images,
        add_prefix_tokens,
    ],
)
def test_a_changed_tower_has_no_plan(change: Callable[[Any], None]) -> None:
    built_model = model()
    plan = make_image_plan(built_model, "fp32")
    assert plan_features(plan) is not None
    change(built_model.visual)
    assert plan_features(plan) is None


def test_dropout_in_evaluation_mode_has_a_plan() -> None:
    built_model = model(patch_dropout=0.5, timm_drop_path=0.2)
    built_model.visual.trunk.blocks[0].attn.attn_drop.p = 0.5
    assert_same(plan_features(make_image_plan(built_model, "fp32")), plain_features(built_model))


def test_another_patch_convolution_has_a_plan() -> None:
    built_model = model()
    plan = make_image_plan(built_model, "fp32")
    assert plan_features(plan) is not None
    built_model.visual.trunk.patch_embed.proj = nn.Conv2d(4, 64, 8, 8).eval()
    four = torch.cat([random_images(), random_images()], dim=1)[:, :4]
    with torch.inference_mode():
        assert_same(plan(four), built_model.encode_image(four))
