"""Tiled losses on 2 and 4 processes equal those of one process, and the plain losses on as many processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from oneclip.losses import ClipLoss, SigLipLoss
from tests.losses.tiled_ranks import TILES, UNEVEN, observe
from tests.ranks import run_ranks

ROWS = 20  # of all ranks
SIZES = TILES[1:]
WAYS = ("bidir", "shift", "reduce", "gather")
WHOLE = [
    *(("softmax", is_local, True) for is_local in (False, True)),  # gradients gathered
    *(("sigmoid", way) for way in WAYS),
]
EACH = [
    *(("softmax", is_local, gathered) for is_local in (False, True) for gathered in (False, True, UNEVEN)),
    *(("sigmoid", way) for way in WAYS),
]

Results = list[dict[Any, list[Tensor]]]


def pairs() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [F.normalize(torch.randn(ROWS, 16, generator=generator), dim=-1) for _ in range(2)]


@pytest.fixture(scope="module", params=[2, 4])
def by_rank(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("ranks")
    torch.save(pairs(), folder / "pairs.pt")
    script = Path(__file__).with_name("tiled_ranks.py")
    run_ranks(request.param, [script, folder / "pairs.pt", folder])
    return [torch.load(folder / f"{rank}.pt") for rank in range(request.param)]


def assert_close(got: Tensor, expected: Tensor, value: Tensor) -> None:
    """Compare within 1e-5 of the norm; scalars that are zero up to rounding, relative to the loss."""
    size = expected.norm() if expected.ndim else torch.maximum(expected.abs(), value / 10)
    assert (got - expected).norm() <= 1e-5 * size


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("way", WHOLE, ids=str)
def test_the_mean_over_ranks_is_that_of_one_process(
    by_rank: Results, way: tuple[Any, ...], size: int
) -> None:
    expected = observe(ClipLoss() if way[0] == "softmax" else SigLipLoss(), *pairs())
    seen = [results[(*way, size)] for results in by_rank]
    for what in (0, 3, 4):  # loss, scale, bias
        mean = torch.stack([one[what] for one in seen]).mean(0)
        assert_close(mean, expected[what], expected[0])
    for what in (1, 2):
        joined = torch.cat([one[what] for one in seen]) / len(by_rank)  # DDP takes the mean over ranks
        assert_close(joined, expected[what], expected[0])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("way", EACH, ids=str)
def test_each_rank_has_the_loss_and_the_gradients_of_features_of_the_plain_loss(
    by_rank: Results, way: tuple[Any, ...], size: int
) -> None:
    for results in by_rank:
        tiled, plain = results[(*way, size)], results[(*way, None)]
        for what in range(3):
            assert_close(tiled[what], plain[what], plain[0])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("way", EACH, ids=str)
@pytest.mark.parametrize("what", [3, 4], ids=["scale", "bias"])
def test_gradients_of_scalars_averaged_over_ranks_are_those_of_the_plain_loss(
    by_rank: Results, way: tuple[Any, ...], size: int, what: int
) -> None:
    mean, plain = (
        torch.stack([results[(*way, form)][what] for results in by_rank]).mean(0) for form in (size, None)
    )
    assert_close(mean, plain, by_rank[0][(*way, None)][0])
