"""ClipLoss on two processes gives the gradients of one process with the whole batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from oneclip.losses import ClipLoss
from tests.ranks import run_ranks

WORLD = 2
HALF = 4


def pairs() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [F.normalize(torch.randn(WORLD * HALF, 16, generator=generator), dim=-1) for _ in range(2)]


@pytest.fixture(scope="module")
def by_rank(tmp_path_factory: pytest.TempPathFactory) -> list[dict[tuple[bool, bool], Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    torch.save(pairs(), folder / "pairs.pt")
    run_ranks(WORLD, [Path(__file__).with_name("softmax_ranks.py"), folder / "pairs.pt", folder])
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


def on_one_process(loss: Any = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    image, text = (part.requires_grad_() for part in pairs())
    scale = torch.tensor(14.0, requires_grad=True)
    value = (loss or ClipLoss())(image, text, scale, torch.tensor(-1.0))
    value.backward()
    return value.detach(), image.grad, text.grad, scale.grad


def joined(by_rank: list[dict[tuple[bool, bool], Any]], way: tuple[bool, bool], what: int) -> Tensor:
    return torch.cat([results[way][what] for results in by_rank])


@pytest.mark.parametrize("way", [(False, False), (False, True), (True, False), (True, True)])
def test_the_mean_loss_over_ranks_is_that_of_one_process(by_rank: list[Any], way: tuple[bool, bool]) -> None:
    mean = sum(results[way][0] for results in by_rank) / WORLD
    torch.testing.assert_close(mean, on_one_process()[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("local_loss", [False, True])
@pytest.mark.parametrize("what", [1, 2])
def test_gathered_gradients_averaged_over_ranks_are_those_of_one_process(
    by_rank: list[Any], local_loss: bool, what: int
) -> None:
    got = joined(by_rank, (local_loss, True), what) / WORLD  # DDP takes the mean over ranks
    torch.testing.assert_close(got, on_one_process()[what], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("way", [(False, False), (False, True), (True, False), (True, True)])
def test_the_gradient_of_the_scale_averaged_over_ranks_is_that_of_one_process(
    by_rank: list[Any], way: tuple[bool, bool]
) -> None:
    mean = sum(results[way][3] for results in by_rank) / WORLD
    torch.testing.assert_close(mean, on_one_process()[3], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("what", [1, 2])
def test_a_whole_loss_without_gathered_gradients_reaches_a_ranks_own_rows(
    by_rank: list[Any], what: int
) -> None:
    got = joined(by_rank, (False, False), what)
    torch.testing.assert_close(got, on_one_process()[what], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("what", [1, 2])
def test_a_local_loss_without_gathered_gradients_reaches_the_side_that_is_not_gathered(
    by_rank: list[Any], what: int
) -> None:
    def one_side(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        labels = torch.arange(len(image))
        per_image = scale * image @ text.detach().T + bias
        per_text = scale * text @ image.detach().T + bias
        return (F.cross_entropy(per_image, labels) + F.cross_entropy(per_text, labels)) / 2

    got = joined(by_rank, (True, False), what) / WORLD
    torch.testing.assert_close(got, on_one_process(one_side)[what], rtol=1e-5, atol=1e-6)
