"""Plans are never stale: after every change of a model, its plan gives the numbers of the plain module."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from engine_models import assert_same, random_images, random_texts, small_model
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils import prune as pruning

from oneclip.engine.plan import Plan, make_image_plan, make_text_plan


def train_a_step(model: Any) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with torch.enable_grad():
        (
            model.encode_image(random_images()).square().mean()
            + model.encode_text(random_texts()).square().mean()
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
    other = small_model(quick_gelu=True)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1)
    model.visual.transformer.resblocks[1] = other.visual.transformer.resblocks[0]
    model.transformer.resblocks[1] = other.transformer.resblocks[0]


def replace_the_tower(model: Any) -> None:
    other = small_model(quick_gelu=True, vision={"ls_init_value": 0.5}, text={"ls_init_value": 0.5})
    model.visual, model.transformer = other.visual, other.transformer


def write_through_data(model: Any) -> None:
    for parameter in model.parameters():
        parameter.data.mul_(1.1)


def merge_through_data(model: Any) -> None:
    """Merge an adapter as peft does: add a low-rank product through `.data`, which raises no version."""
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
def test_features_follow_every_change(change: Callable[[Any], None]) -> None:
    model = small_model(quick_gelu=True)
    plans = make_image_plan(model, "fp32"), make_text_plan(model, "fp32")
    before = answers(model, plans)
    torch.manual_seed(3)
    change(model)
    after = answers(model, plans)
    for old, new in zip(before, after, strict=True):
        assert not torch.allclose(old, new, rtol=1e-3), "the change had no effect on the features"


def answers(model: Any, plans: tuple[Plan, Plan]) -> list[torch.Tensor]:
    """Return the features of the plain module, after a comparison with those of the plans, if any."""
    found = []
    with torch.inference_mode():
        for plan, batch, plain in zip(
            plans, (random_images(), random_texts()), (model.encode_image, model.encode_text), strict=True
        ):
            expected, features = plain(batch), plan(batch)
            if features is not None:
                assert_same(features, expected)
            else:
                assert plan.describe().startswith("the plain module:")
            found.append(expected)
    return found


def test_a_plan_is_used_again_when_its_hook_is_removed() -> None:
    model = small_model()
    plan = make_image_plan(model, "fp32")
    calls = []
    handle = model.visual.ln_post.register_forward_hook(lambda *_: calls.append(1))
    with torch.inference_mode():
        assert plan(random_images()) is None
        assert "hook" in plan.describe()
        handle.remove()
        assert plan(random_images()) is not None


def test_a_global_hook_turns_plans_off() -> None:
    plan = make_image_plan(small_model(), "fp32")
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        with torch.inference_mode():
            assert plan(random_images()) is None
    finally:
        handle.remove()


def test_an_unchanged_model_is_packed_once() -> None:
    model = small_model()
    plan = make_image_plan(model, "fp32")
    with torch.inference_mode():
        plan(random_images())
        first = plan._built
        model.encode_image(random_images())
        copy.deepcopy(model)
        plan(random_images())
    assert plan._built is first


@pytest.mark.parametrize("situation", ["gradient", "training", "autocast", "meta"])
def test_a_plan_is_off_with_gradients_training_autocast_and_unknown_devices(situation: str) -> None:
    model = small_model()
    plan, images = make_image_plan(model, "fp32"), random_images()
    if situation == "training":
        model.train()
    if situation == "meta":
        images = images.to("meta")
    gradient = situation == "gradient"
    with (
        torch.set_grad_enabled(gradient),
        torch.autocast("cpu", torch.bfloat16, enabled=situation == "autocast"),
    ):
        assert plan(images) is None


def test_a_model_on_a_device_without_plans_has_no_plan() -> None:
    model = small_model()
    plan = make_image_plan(model, "fp32")
    with torch.inference_mode():
        assert plan(random_images()) is not None
        model.to("meta")
        assert plan(random_images()) is None
        assert "meta" in plan.describe()


def test_sparse_weights_have_no_plan() -> None:
    model = small_model()
    plan = make_image_plan(model, "fp32")
    weight = model.visual.transformer.resblocks[0].mlp.c_fc
    weight.weight = nn.Parameter(weight.weight.detach().to_sparse(), requires_grad=False)
    assert "sparse" in plan.describe()


def test_every_precision_follows_a_training_step() -> None:
    model = small_model()
    plans = {precision: make_image_plan(model, precision) for precision in ("bf16", "int8")}
    for _ in range(2):
        with torch.inference_mode():
            expected = model.encode_image(random_images())
            for precision, plan in plans.items():
                assert_same(plan(random_images()), expected, precision)
        train_a_step(model)
