"""Two and four processes learn what one learns from the same batches: losses, gradients and weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from oneclip.train import World
from tests.ranks import run_ranks
from tests.train.together import CASES, observe

WORLDS = (2, 4)
Seen = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def alone() -> Seen:
    return {name: observe(case, World()) for name, case in CASES.items()}


@pytest.fixture(scope="module", params=WORLDS, ids=[f"{size} processes" for size in WORLDS])
def together(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    folder = tmp_path_factory.mktemp("together")
    run_ranks(request.param, [Path(__file__).with_name("together.py"), folder])
    seen: Seen = torch.load(folder / "seen.pt", weights_only=True)
    return seen


def distance(found: Tensor, expected: Tensor) -> float:
    """Of two tensors, relative to the second; absolute where that is next to nothing."""
    return float((found - expected).norm() / expected.norm().clamp(min=1e-4))


@pytest.mark.parametrize("case", CASES)
def test_the_loss_of_a_batch_is_the_same(alone: Seen, together: Seen, case: str) -> None:
    assert together[case]["losses"] == pytest.approx(alone[case]["losses"], rel=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_each_gradient_is_the_same(alone: Seen, together: Seen, case: str) -> None:
    ours, theirs = together[case]["gradients"], alone[case]["gradients"]
    assert ours.keys() == theirs.keys()
    assert max(distance(ours[name], theirs[name]) for name in theirs) < 1e-5


@pytest.mark.parametrize("case", CASES)
def test_weights_are_the_same_after_ten_steps_of_sgd(alone: Seen, together: Seen, case: str) -> None:
    ours, theirs = together[case]["weights"], alone[case]["weights"]
    assert (
        max(distance(ours[name], theirs[name]) for name in theirs if theirs[name].is_floating_point()) < 1e-5
    )


@pytest.mark.parametrize("case", CASES)
def test_losses_are_the_same_over_twenty_steps_of_adamw(alone: Seen, together: Seen, case: str) -> None:
    assert len(alone[case]["adamw"]) == 20
    assert together[case]["adamw"] == pytest.approx(alone[case]["adamw"], rel=1e-5)
