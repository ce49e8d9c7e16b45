"""Stale numbers are impossible: whatever happens to a model, its plan says what the plain module says."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_plans import assert_same, captions, model_of, pictures
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils import prune as pruning

from oneclip.engine.plan import Plan, image_plan, text_plan


def train_a_step(model: Any) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with torch.enable_grad():
        (
            model.encode_image(pictures()).square().mean() + model.encode_text(captions()).square().mean()
        ).backward()
    optimizer.step()


def load(model: Any) -> None:
    model.load_state_dict({name: 1.1 * tensor for name, tensor in model.state_dict().items()})


def replace_a_parameter(model: Any) -> None:
    for mlp in (model.visual.transformer.resblocks[1].mlp, model.transformer.resblocks[1].mlp):
        mlp.c_fc.weight = nn.Parameter(torch.randn_like(mlp.c_fc.weight))


def replace_a_module(model: Any) -> None:
    for mlp in (model.visual.transformer.resblocks[1].mlp, model.transformer.resblocks[1].mlp):
        mlp.gelu = nn.GELU(approximate="tanh")
        mlp.c_fc = nn.Linear(64, 256)


def replace_a_block(model: Any) -> None:
    other = model_of(quick_gelu=True)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1)
    model.visual.transformer.resblocks[1] = other.visual.transformer.resblocks[0]
    model.transformer.resblocks[1] = other.transformer.resblocks[0]


def replace_the_tower(model: Any) -> None:
    other = model_of(quick_gelu=True, vision={"ls_init_value": 0.5}, text={"ls_init_value": 0.5})
    model.visual, model.transformer = other.visual, other.transformer


def write_through_data(model: Any) -> None:
    for parameter in model.parameters():
        parameter.data.mul_(1.1)


def merge_through_data(model: Any) -> None:
    """As peft merges an adapter: a product of low rank, added where no version sees it."""
    for mlp in (model.visual.transformer.resblocks[1].mlp, model.transformer.resblocks[1].mlp):
        mlp.c_proj.weight.data += torch.randn(64, 2) @ torch.randn(2, 256)


def put_other_data(model: Any) -> None:
    for parameter in model.parameters():
        parameter.data = parameter.data * 1.1


def write_in_inference_mode(model: Any) -> None:
    with torch.inference_mode():
        for parameter in model.parameters():
            parameter.mul_(1.1)


def write_through_numpy(model: Any) -> None:
    model.visual.proj.detach().numpy()[:] *= 1.5
    model.ln_final.weight.detach().numpy()[:] += 1


def change_a_setting(model: Any) -> None:
    model.visual.pool_type, model.text_pool_type = "avg", "first"


def replace_a_method(model: Any) -> None:
    for block in (model.visual.transformer.resblocks[1], model.transformer.resblocks[1]):
        block.forward = lambda x, attn_mask=None: 2 * x


def parametrize_weights(model: Any) -> None:
    class Double(nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return 2 * weight

    for mlp in (model.visual.transformer.resblocks[1].mlp, model.transformer.resblocks[1].mlp):
        parametrize.register_parametrization(mlp.c_fc, "weight", Double())


def subclass_a_block(model: Any) -> None:
    for block in (model.visual.transformer.resblocks[1], model.transformer.resblocks[1]):
        kind = type(block)
        block.__class__ = type("Mine", (kind,), {"forward": lambda self, x, attn_mask=None: 2 * x})


def prune(model: Any) -> None:
    for mlp in (model.visual.transformer.resblocks[1].mlp, model.transformer.resblocks[1].mlp):
        pruning.random_unstructured(mlp.c_fc, "weight", amount=0.5)


def hook(model: Any) -> None:
    for block in (model.visual.transformer.resblocks[2], model.transformer.resblocks[2]):
        block.mlp.c_fc.register_forward_hook(lambda module, inputs, output: output * 0)


def hook_before(model: Any) -> None:
    for block in (model.visual.transformer.resblocks[0], model.transformer.resblocks[0]):
        block.ln_1.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 3,))


CHANGES = [
    train_a_step,
    load,
    replace_a_parameter,
    replace_a_module,
    replace_a_block,
    replace_the_tower,
    write_through_data,
    merge_through_data,
    put_other_data,
    write_in_inference_mode,
    write_through_numpy,
    change_a_setting,
    replace_a_method,
    parametrize_weights,
    subclass_a_block,
    prune,
    hook,
    hook_before,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_no_number_is_stale(change: Callable[[Any], None]) -> None:
    model = model_of(quick_gelu=True)
    plans = image_plan(model, "fp32"), text_plan(model, "fp32")
    before = answers(model, plans)
    torch.manual_seed(3)
    change(model)
    after = answers(model, plans)
    for old, new in zip(before, after, strict=True):
        assert not torch.allclose(old, new, rtol=1e-3), "the change changed nothing: it tests nothing"


def answers(model: Any, plans: tuple[Plan, Plan]) -> list[torch.Tensor]:
    """The plain module's features, after the plans' were found to be the same, or left to the plain module."""
    found = []
    with torch.inference_mode():
        for plan, batch, plain in zip(
            plans, (pictures(), captions()), (model.encode_image, model.encode_text), strict=True
        ):
            expected, features = plain(batch), plan(batch)
            if features is not None:
                assert_same(features, expected)
            else:
                assert plan.describe().startswith("the plain module:")
            found.append(expected)
    return found


def test_a_plan_comes_back_when_the_hook_goes() -> None:
    model = model_of()
    plan = image_plan(model, "fp32")
    calls = []
    handle = model.visual.ln_post.register_forward_hook(lambda *_: calls.append(1))
    with torch.inference_mode():
        assert plan(pictures()) is None
        assert "hook" in plan.describe()
        handle.remove()
        assert plan(pictures()) is not None


def test_a_hook_on_all_modules_is_called() -> None:
    plan = image_plan(model_of(), "fp32")
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        with torch.inference_mode():
            assert plan(pictures()) is None
    finally:
        handle.remove()


def test_nothing_is_packed_again_when_nothing_changed() -> None:
    model = model_of()
    plan = image_plan(model, "fp32")
    with torch.inference_mode():
        plan(pictures())
        first = plan._made
        model.encode_image(pictures())
        copy.deepcopy(model)
        plan(pictures())
    assert plan._made is first


@pytest.mark.parametrize("disturb", ["gradient", "training", "autocast", "meta"])
def test_what_a_plan_does_not_compute_is_left_to_the_module(disturb: str) -> None:
    model = model_of()
    plan, images = image_plan(model, "fp32"), pictures()
    if disturb == "training":
        model.train()
    if disturb == "meta":
        images = images.to("meta")
    gradient = disturb == "gradient"
    with (
        torch.set_grad_enabled(gradient),
        torch.autocast("cpu", torch.bfloat16, enabled=disturb == "autocast"),
    ):
        assert plan(images) is None


def test_a_model_that_moved_away_leaves_its_plan() -> None:
    model = model_of()
    plan = image_plan(model, "fp32")
    with torch.inference_mode():
        assert plan(pictures()) is not None
        model.to("meta")
        assert plan(pictures()) is None
        assert "meta" in plan.describe()


def test_weights_of_another_kind_leave_the_plan() -> None:
    model = model_of()
    plan = image_plan(model, "fp32")
    weight = model.visual.transformer.resblocks[0].mlp.c_fc
    weight.weight = nn.Parameter(weight.weight.detach().to_sparse(), requires_grad=False)
    assert "sparse" in plan.describe()


def test_every_precision_follows_a_training_step() -> None:
    model = model_of()
    plans = {precision: image_plan(model, precision) for precision in ("bf16", "int8")}
    for _ in range(2):
        with torch.inference_mode():
            expected = model.encode_image(pictures())
            for precision, plan in plans.items():
                assert_same(plan(pictures()), expected, precision)
        train_a_step(model)
