"""ClipLoss on one process equals the softmax loss of the paper, and rejects invalid arguments."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from oneclip.errors import ConfigError
from oneclip.losses import ClipLoss


@pytest.fixture
def features() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    image, text = (F.normalize(torch.randn(6, 8, generator=generator), dim=-1) for _ in range(2))
    return image.requires_grad_(), text.requires_grad_()


def softmax_loss(image: Tensor, text: Tensor, scale: Tensor, bias: float = 0.0) -> Tensor:
    logits = scale * image @ text.T + bias
    return -(logits.log_softmax(1).diagonal().mean() + logits.log_softmax(0).diagonal().mean()) / 2


@pytest.mark.parametrize("bias", [None, -3.0])
def test_value_and_gradients_are_those_of_the_formula(
    features: tuple[Tensor, Tensor], bias: float | None
) -> None:
    image, text = features
    scale = torch.tensor(14.0, requires_grad=True)
    leaves = [image, text, scale]
    ours = ClipLoss()(image, text, scale, logit_bias=None if bias is None else torch.tensor(bias))
    expected = softmax_loss(image, text, scale, bias or 0.0)
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)
    pairs = zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(expected, leaves), strict=True)
    for got, wanted in pairs:
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


def test_a_dict_has_the_contrastive_loss(features: tuple[Tensor, Tensor]) -> None:
    result = ClipLoss()(*features, torch.tensor(10.0), output_dict=True)
    assert list(result) == ["contrastive_loss"]
    assert torch.equal(result["contrastive_loss"], ClipLoss()(*features, torch.tensor(10.0)))


def test_logits_come_per_image_and_per_text(features: tuple[Tensor, Tensor]) -> None:
    per_image, per_text = ClipLoss().get_logits(*features, torch.tensor(10.0), torch.tensor(-1.0))
    torch.testing.assert_close(per_image, per_text.T)
    torch.testing.assert_close(per_image, 10 * features[0] @ features[1].T - 1)


@pytest.mark.parametrize("cache", [False, True])
def test_labels_follow_the_batch_size(cache: bool) -> None:
    loss = ClipLoss(cache_labels=cache)
    for size in (4, 4, 2, 4):
        assert loss.get_ground_truth(torch.device("cpu"), size).tolist() == list(range(size))
    assert bool(loss.labels) == cache


def test_cached_labels_are_the_same_tensor() -> None:
    loss = ClipLoss(cache_labels=True)
    assert loss.get_ground_truth(torch.device("cpu"), 4) is loss.get_ground_truth(torch.device("cpu"), 4)


def test_labels_of_a_local_loss_start_at_the_rank() -> None:
    loss = ClipLoss(local_loss=True, rank=2, world_size=3)
    assert loss.get_ground_truth(torch.device("cpu"), 4).tolist() == [8, 9, 10, 11]


def test_horovod_is_refused() -> None:
    with pytest.raises(ConfigError, match="Horovod"):
        ClipLoss(use_horovod=True)


def test_a_rank_outside_the_world_is_refused() -> None:
    with pytest.raises(ConfigError, match="rank 2 is not in a world of 2"):
        ClipLoss(rank=2, world_size=2)


def test_ranks_without_a_process_group_are_refused(features: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ConfigError, match="init_process_group"):
        ClipLoss(rank=0, world_size=2)(*features, torch.tensor(10.0))
