"""The sigmoid loss on four processes gives, for each `dist_impl`, the gradients of one process with the whole batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import open_clip.loss
from oneclip.errors import ConfigError
from oneclip.losses import SigLipLoss
from tests.ranks import run_ranks

WORLD = 4  # texts go in both directions at once, and one step is left over
ROWS = 2
DIST_IMPLS = ("bidir", "shift", "reduce", "gather")
OURS = str(open_clip.loss.__file__)
PUBLISHED = Path(__file__).resolve().parents[2] / ".parity" / "packages" / "open_clip" / "loss.py"


def pairs() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [F.normalize(torch.randn(WORLD * ROWS, 16, generator=generator), dim=-1) for _ in range(2)]


@pytest.fixture(scope="module")
def by_rank(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    torch.save(pairs(), folder / "pairs.pt")
    sources = [OURS, *([str(PUBLISHED)] if PUBLISHED.is_file() else [])]
    run_ranks(WORLD, [Path(__file__).with_name("sigmoid_ranks.py"), folder / "pairs.pt", folder, *sources])
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


def on_one_process() -> list[Any]:
    leaves = [*pairs(), torch.tensor(14.0), torch.tensor(-8.0)]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    value = SigLipLoss()(*leaves)
    value.backward()
    return [value.detach(), *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize("dist_impl", DIST_IMPLS)
@pytest.mark.parametrize("what", [0, 3, 4], ids=["loss", "scale", "bias"])
def test_the_mean_over_ranks_is_that_of_one_process(by_rank: list[Any], dist_impl: str, what: int) -> None:
    mean = sum(seen[OURS][dist_impl][what] for seen in by_rank) / WORLD
    torch.testing.assert_close(mean, on_one_process()[what], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dist_impl", DIST_IMPLS)
@pytest.mark.parametrize("what", [1, 2], ids=["images", "texts"])
def test_gradients_of_features_averaged_over_ranks_are_those_of_one_process(
    by_rank: list[Any], dist_impl: str, what: int
) -> None:
    got = (
        torch.cat([seen[OURS][dist_impl][what] for seen in by_rank]) / WORLD
    )  # DDP takes the mean over ranks
    torch.testing.assert_close(got, on_one_process()[what], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dist_impl", DIST_IMPLS)
def test_each_rank_gets_what_the_published_loss_gives_it(by_rank: list[Any], dist_impl: str) -> None:
    if not PUBLISHED.is_file():
        pytest.skip("the published packages are not installed: run python tests/parity/install.py")
    for seen in by_rank:
        for ours, theirs in zip(seen[OURS][dist_impl], seen[str(PUBLISHED)][dist_impl], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("local_loss", [False, True])
@pytest.mark.parametrize("with_grad", [False, True])
def test_features_are_gathered_as_the_published_function_does(
    by_rank: list[Any], local_loss: bool, with_grad: bool
) -> None:
    if not PUBLISHED.is_file():
        pytest.skip("the published packages are not installed: run python tests/parity/install.py")
    for seen in by_rank:
        found, expected = seen[OURS][local_loss, with_grad], seen[str(PUBLISHED)][local_loss, with_grad]
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_an_unknown_dist_impl_is_named() -> None:
    with pytest.raises(ConfigError, match="'ring'; expected one of bidir, shift, reduce, gather"):
        SigLipLoss(dist_impl="ring")


@pytest.mark.parametrize("dist_impl", DIST_IMPLS)
def test_ranks_without_a_process_group_are_refused(dist_impl: str) -> None:
    with pytest.raises(ConfigError, match="init_process_group"):
        SigLipLoss(rank=0, world_size=2, dist_impl=dist_impl)(
            *pairs(), torch.tensor(10.0), torch.tensor(-1.0)
        )
