"""Loading state dicts into models: all tensors, or none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from oneclip.checkpoint import load_into
from oneclip.errors import CheckpointError, CheckpointMismatchError


def model() -> nn.Module:
    made = nn.Module()
    made.linear = nn.Linear(3, 2)
    made.norm = nn.BatchNorm1d(2)
    made.logit_scale = nn.Parameter(torch.tensor(1.0))
    made.register_buffer("mask", torch.ones(2), persistent=False)
    return made


def state() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {
        k: torch.rand_like(v) if v.is_floating_point() else v + 5 for k, v in model().state_dict().items()
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
@pytest.mark.parametrize("target", [torch.float32, torch.bfloat16])
def test_tensors_are_converted_to_the_precision_of_the_model(dtype: torch.dtype, target: torch.dtype) -> None:
    given = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state().items()}
    loaded = model().to(target)
    load_into(loaded, given, source="test")
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, given[name].to(tensor.dtype))
        assert tensor.dtype == (target if tensor.is_floating_point() else torch.int64)


def test_a_mismatch_lists_all_and_loads_nothing() -> None:
    given = state()
    del given["linear.weight"]
    given["other"] = torch.ones(1)
    given["linear.bias"] = torch.ones(7)
    target = model()
    before = {k: v.clone() for k, v in target.state_dict().items()}
    with pytest.raises(CheckpointMismatchError, match=r"run\.pt does not fit") as caught:
        load_into(target, given, source="run.pt")
    assert caught.value.missing == ["linear.weight"]
    assert caught.value.unexpected == ["other"]
    assert caught.value.reshaped == [("linear.bias", (7,), (2,))]
    assert all(torch.equal(before[k], v) for k, v in target.state_dict().items())


def test_shapes_that_would_broadcast_are_a_mismatch() -> None:
    with pytest.raises(
        CheckpointMismatchError, match=r"linear\.bias: \(1,\) in the checkpoint, \(2,\) in the model"
    ):
        load_into(model(), state() | {"linear.bias": torch.ones(1)}, source="test")


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64])
def test_dtypes_of_another_kind_are_refused(dtype: torch.dtype) -> None:
    target = model()
    before = target.linear.bias.clone()
    with pytest.raises(
        CheckpointError, match=r"linear\.weight has dtype (int8|bool|complex64); expected float32"
    ):
        load_into(target, state() | {"linear.weight": torch.ones(2, 3).to(dtype)}, source="test")
    assert torch.equal(target.linear.bias, before)


def test_stored_causal_masks_are_ignored() -> None:
    given = state() | {"attn_mask": torch.ones(77, 77), "text.attn_mask": torch.ones(77, 77)}
    load_into(model(), given, source="test")


def test_scales_with_an_axis_and_without_fit_each_other() -> None:
    target = model()
    load_into(target, state() | {"logit_scale": torch.tensor([3.0])}, source="test")
    assert target.logit_scale.item() == 3
    with pytest.raises(CheckpointMismatchError):
        load_into(model(), state() | {"logit_scale": torch.tensor([3.0, 4.0])}, source="test")


def test_norms_without_num_batches_tracked_load() -> None:
    given = state()
    del given["norm.num_batches_tracked"]
    load_into(model(), given, source="test")


def test_a_model_on_the_meta_device_is_refused() -> None:
    with pytest.raises(CheckpointError, match="meta device"):
        load_into(model().to("meta"), state(), source="test")


def test_parameters_are_the_same_objects_afterwards() -> None:
    target = model()
    weight = target.linear.weight
    load_into(target, state(), source="test")
    assert target.linear.weight is weight
    assert weight.requires_grad
    assert weight.is_leaf
