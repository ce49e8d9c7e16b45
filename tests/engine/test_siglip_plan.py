"""A plan of SigLIP's image tower stands for the published parts only: with another part, the plain module computes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_plans import assert_same, model_of, pictures
from torch import nn

from oneclip.engine.plan import Plan, image_plan

BLOCK = "trunk.blocks.1"
PASSED = (  # parts that give their input back
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
    """A module whose output is halved; its weights are found under the same names."""

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
    return model_of(
        {"pool_type": "map", **changes},
        {"no_causal_mask": True, "pool_type": "last", "proj_bias": True},
        custom_text=True,
    )


def answer(plan: Plan) -> torch.Tensor | None:
    with torch.inference_mode():
        return plan(pictures())


def plain(made: Any) -> torch.Tensor:
    with torch.inference_mode():
        features: torch.Tensor = made.encode_image(pictures())
        return features


@pytest.mark.parametrize("path", [*PASSED, *COMPUTED])
def test_a_replaced_part_is_left_to_the_plain_module(path: str) -> None:
    made = model()
    plan = image_plan(made, "fp32")
    assert_same(answer(plan), plain(made))
    part = made.visual.get_submodule(path)
    made.visual.set_submodule(path, Halved(part).eval())
    assert answer(plan) is None
    assert plan.describe().startswith("the plain module")
    made.visual.set_submodule(path, part)
    assert_same(answer(plan), plain(made))


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
def test_a_changed_tower_is_left_to_the_plain_module(change: Callable[[Any], None]) -> None:
    made = model()
    plan = image_plan(made, "fp32")
    assert answer(plan) is not None
    change(made.visual)
    assert answer(plan) is None


def test_dropout_in_evaluation_is_planned() -> None:
    made = model(patch_dropout=0.5, timm_drop_path=0.2)
    made.visual.trunk.blocks[0].attn.attn_drop.p = 0.5
    assert_same(answer(image_plan(made, "fp32")), plain(made))


def test_another_convolution_is_planned() -> None:
    made = model()
    plan = image_plan(made, "fp32")
    assert answer(plan) is not None
    made.visual.trunk.patch_embed.proj = nn.Conv2d(4, 64, 8, 8).eval()
    four = torch.cat([pictures(), pictures()], dim=1)[:, :4]
    with torch.inference_mode():
        assert_same(plan(four), made.encode_image(four))
