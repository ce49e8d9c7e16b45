"""WiSE-FT: interpolated weights, and the selection of alpha."""

from __future__ import annotations

import pytest
import torch

from oneclip.errors import ConfigError
from oneclip.train.finetune import (
    AlphaPoint,
    AlphaSweep,
    evaluate_alphas,
    gained_and_forgotten,
    interpolate,
    select_alpha,
)

BEFORE = {"w": torch.tensor([1.0, 3.0]), "half": torch.tensor([1.0]).half(), "count": torch.tensor(4)}
AFTER = {"w": torch.tensor([2.0, -1.0]), "half": torch.tensor([2.0]).half(), "count": torch.tensor(9)}


def test_both_ends_are_the_weights_bit_for_bit() -> None:
    torch.manual_seed(0)
    before, after = {"w": torch.randn(1000)}, {"w": torch.randn(1000)}
    assert torch.equal(interpolate(before, after, 0.0)["w"], before["w"])
    assert torch.equal(interpolate(before, after, 1.0)["w"], after["w"])


def test_between_them_every_tensor_is_mixed_in_its_own_precision() -> None:
    mixed = interpolate(BEFORE, AFTER, 0.25)
    torch.testing.assert_close(mixed["w"], torch.tensor([1.25, 2.0]))
    assert mixed["half"].dtype == torch.float16
    assert float(mixed["half"]) == 1.25
    assert mixed["count"] == 9


def test_weights_of_two_models_are_refused() -> None:
    with pytest.raises(ConfigError, match="not of the same model: only one of them has count"):
        interpolate(BEFORE, {"w": AFTER["w"], "half": AFTER["half"]}, 0.5)


def points(*figures: tuple[float, float | None]) -> list[AlphaPoint]:
    last = len(figures) - 1
    return [
        AlphaPoint(i / last, {"new": new}, None if old is None else {"old": old})
        for i, (new, old) in enumerate(figures)
    ]


def test_each_alpha_is_evaluated_with_its_weights() -> None:
    found = evaluate_alphas(
        BEFORE, AFTER, [0.0, 0.5, 1.0], lambda weights: ({"new": float(weights["w"][0])}, None)
    )
    assert [(point.alpha, point.new["new"]) for point in found] == [(0.0, 1.0), (0.5, 1.5), (1.0, 2.0)]


def test_the_best_compromise_is_good_at_both() -> None:
    path = points((0.1, 0.9), (0.7, 0.85), (0.8, 0.1))
    assert select_alpha(path, "new", "old") == 0.5


def test_a_point_that_lost_one_task_is_not_selected() -> None:
    path = points((0.5, 0.9), (0.6, 0.5), (1.0, 0.0))
    assert select_alpha(path, "new", "old") == 0.0


def test_without_a_reference_task_the_best_on_the_new_task_is_selected() -> None:
    assert select_alpha(points((0.1, None), (0.9, None), (0.8, None)), "new", None) == 0.5


def test_of_equal_points_the_smallest_alpha_is_selected() -> None:
    assert select_alpha(points((0.5, 0.5), (0.5, 0.5), (0.5, 0.5)), "new", "old") == 0.0


def test_a_requested_alpha_is_selected() -> None:
    path = points((0.1, 0.9), (0.7, 0.85), (0.8, 0.1))
    assert select_alpha(path, "new", "old", "after") == 1.0
    assert select_alpha(path, "new", "old", 0.5) == 0.5


def test_points_with_metrics_of_0_can_be_compared() -> None:
    assert select_alpha(points((0.0, 0.0), (0.0, 0.0)), "new", "old") == 0.0


def test_two_lines_say_what_was_gained_and_forgotten() -> None:
    path = points((0.1, 0.9), (0.7, 0.85), (0.8, 0.1))
    assert gained_and_forgotten(AlphaSweep(path, "icons", "new", "photos", "old", 0.5)) == (
        "gained: icons, new 0.1000 -> 0.7000 (+0.6000)",
        "forgotten: photos, old 0.9000 -> 0.8500 (-0.0500)",
    )
    alone = AlphaSweep(points((0.1, None), (0.7, None)), "icons", "new", None, None, 1.0)
    assert gained_and_forgotten(alone)[1] == "forgotten: not measured, no reference task"
