"""Two and four processes have the losses, gradients and weights of one process."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from greatest import TOGETHER, note
from torch import Tensor

from oneclip.train import World
from tests.ranks import run_ranks
from tests.train.together import CASES, observe

WORLDS = {2: list(CASES), 4: [name for name, case in CASES.items() if case.is_basic]}  # a case takes 4 long
EACH = pytest.mark.parametrize(
    ("size", "case"), [(size, case) for size, cases in WORLDS.items() for case in cases]
)
Seen = dict[str, dict[str, Any]]
Together = Callable[[int], Seen]


@pytest.fixture(scope="module")
def alone() -> Seen:
    return {name: observe(case, World()) for name, case in CASES.items()}


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory, alone: Seen) -> Callable[[int], Seen]:
    """Results of a number of processes, which are started at the first use."""

    @cache
    def of(size: int) -> Seen:
        folder = tmp_path_factory.mktemp("together")
        run_ranks(size, [Path(__file__).with_name("together.py"), folder, *WORLDS[size]], timeout=600)
        seen: Seen = torch.load(folder / "seen.pt", weights_only=True)
        for case, found in seen.items():
            for what, error in errors(found, alone[case]).items():
                note(TOGETHER, f"{size} processes, {case}: {what}", error)
        return seen

    return of


def errors(found: dict[str, Any], expected: dict[str, Any]) -> dict[str, float]:
    """Return the largest errors of losses over all steps, and of gradients and weights by tensor."""
    pairs = [(found["losses"][name], expected["losses"][name]) for name in expected["losses"]]
    pairs += zip(found["adamw"], expected["adamw"], strict=True)
    greatest = {"losses": max(abs(ours - theirs) / abs(theirs) for ours, theirs in pairs)}
    for what in ("gradients", "weights"):
        tensors = {name: tensor for name, tensor in expected[what].items() if tensor.is_floating_point()}
        greatest[what] = max(distance(found[what][name], tensor) for name, tensor in tensors.items())
    return greatest


def distance(found: Tensor, expected: Tensor) -> float:
    """Return the distance of two tensors, relative to the second unless it is nearly 0."""
    return float((found - expected).norm() / expected.norm().clamp(min=1e-4))


@EACH
def test_the_loss_of_a_batch_is_the_same(alone: Seen, together: Together, size: int, case: str) -> None:
    assert together(size)[case]["losses"] == pytest.approx(alone[case]["losses"], rel=1e-5)


@EACH
def test_each_gradient_is_the_same(alone: Seen, together: Together, size: int, case: str) -> None:
    ours, theirs = together(size)[case]["gradients"], alone[case]["gradients"]
    assert ours.keys() == theirs.keys()
    assert max(distance(ours[name], theirs[name]) for name in theirs) < 1e-5


@EACH
def test_weights_are_the_same_after_three_steps_of_sgd(
    alone: Seen, together: Together, size: int, case: str
) -> None:
    ours, theirs = together(size)[case]["weights"], alone[case]["weights"]
    assert (
        max(distance(ours[name], theirs[name]) for name in theirs if theirs[name].is_floating_point()) < 1e-5
    )


@EACH
def test_losses_are_the_same_over_four_steps_of_adamw(
    alone: Seen, together: Together, size: int, case: str
) -> None:
    assert len(alone[case]["adamw"]) == 4
    assert together(size)[case]["adamw"] == pytest.approx(alone[case]["adamw"], rel=1e-5)
