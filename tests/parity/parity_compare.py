"""How far ours is from what was published."""

from __future__ import annotations

from typing import Any

import torch
from greatest import PUBLISHED, note
from torch import Tensor


def relative_error(ours: Tensor, theirs: Tensor, least: float = 1e-6) -> float:
    """Distance by the length of what was expected (or `least`, if that is longer); NaN in the same places is equal."""
    assert ours.shape == theirs.shape, f"{tuple(ours.shape)} where {tuple(theirs.shape)} was expected"
    ours, theirs = ours.double(), theirs.double()
    odd = ~theirs.isfinite()
    assert torch.equal(ours[odd].nan_to_num(), theirs[odd].nan_to_num()), "another pattern of infinities"
    difference = (ours - theirs)[~odd].norm()
    return float(difference / theirs[~odd].norm().clamp(min=least))


def compare(
    group: str, ours: dict[str, Any], theirs: dict[str, Any], tolerance: float, least: float = 1e-6
) -> None:
    """Hold everything that the published package gave against ours; what it could not do is passed over."""
    for key, expected in theirs.items():
        if isinstance(expected, str) and expected.startswith("raised "):
            continue
        assert key in ours, f"{key} is missing; there are {sorted(ours)[:20]}"
        found = ours[key]
        if not isinstance(expected, Tensor):
            assert found == expected, f"{key}: {found} where {expected} was expected"
            continue
        assert isinstance(found, Tensor), f"{key}: {found} where a tensor was expected"
        error = relative_error(found, expected, least)
        assert error < tolerance, f"{key}: relative error {error:.1e}"
        note(PUBLISHED, group, error)
