"""Weights between before and after, and which of them is the best compromise."""

from __future__ import annotations

import pytest
import torch

from oneclip.errors import ConfigError
from oneclip.train.finetune import Path, Point, choose, gained_and_forgotten, interpolate, walk

BEFORE = {"w": torch.tensor([1.0, 3.0]), "half": torch.tensor([1.0]).half(), "count": torch.tensor(4)}
AFTER = {"w": torch.tensor([2.0, -1.0]), "half": torch.tensor([2.0]).half(), "count": torch.tensor(9)}


def test_both_ends_are_the_weights_themselves() -> None:
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
    with pytest.raises(ConfigError, match="not of one model: count"):
        interpolate(BEFORE, {"w": AFTER["w"], "half": AFTER["half"]}, 0.5)


def points(*figures: tuple[float, float | None]) -> list[Point]:
    last = len(figures) - 1
    return [
        Point(i / last, {"new": new}, None if old is None else {"old": old})
        for i, (new, old) in enumerate(figures)
    ]


def test_the_walk_evaluates_the_weights_of_each_point() -> None:
    found = walk(BEFORE, AFTER, [0.0, 0.5, 1.0], lambda weights: ({"new": float(weights["w"][0])}, None))
    assert [(point.alpha, point.new["new"]) for point in found] == [(0.0, 1.0), (0.5, 1.5), (1.0, 2.0)]


def test_the_best_compromise_is_good_at_both() -> None:
    path = points((0.1, 0.9), (0.7, 0.85), (0.8, 0.1))
    assert choose(path, "new", "old") == 0.5


def test_what_lost_one_task_is_no_compromise() -> None:
    path = points((0.5, 0.9), (0.6, 0.5), (1.0, 0.0))
    assert choose(path, "new", "old") == 0.0


def test_without_a_task_from_before_the_best_on_the_new_one_is_written() -> None:
    assert choose(points((0.1, None), (0.9, None), (0.8, None)), "new", None) == 0.5


def test_of_equals_the_one_nearer_to_before_is_written() -> None:
    assert choose(points((0.5, 0.5), (0.5, 0.5), (0.5, 0.5)), "new", "old") == 0.0


def test_another_point_is_written_on_request() -> None:
    path = points((0.1, 0.9), (0.7, 0.85), (0.8, 0.1))
    assert choose(path, "new", "old", "after") == 1.0
    assert choose(path, "new", "old", 0.5) == 0.5


def test_models_that_know_nothing_are_compared_all_the_same() -> None:
    assert choose(points((0.0, 0.0), (0.0, 0.0)), "new", "old") == 0.0


def test_two_lines_say_what_was_gained_and_forgotten() -> None:
    path = points((0.1, 0.9), (0.7, 0.85), (0.8, 0.1))
    assert gained_and_forgotten(Path(path, "icons", "new", "photos", "old", 0.5)) == (
        "gained: icons, new 0.1000 -> 0.7000 (+0.6000)",
        "forgotten: photos, old 0.9000 -> 0.8500 (-0.0500)",
    )
    alone = Path(points((0.1, None), (0.7, None)), "icons", "new", None, None, 1.0)
    assert gained_and_forgotten(alone)[1] == "forgotten: not measured, there is no data from before"
