"""Comparison of our results with the published ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from greatest import PUBLISHED, note
from torch import Tensor


def relative_error(ours: Tensor, theirs: Tensor, least: float = 1e-6) -> float:
    """Compute the distance relative to the norm of `expected`, or `least` if larger; NaN equals NaN."""
    assert ours.shape == theirs.shape, f"{tuple(ours.shape)} where {tuple(theirs.shape)} was expected"
    ours, theirs = ours.double(), theirs.double()
    odd = ~theirs.isfinite()
    assert torch.equal(ours[odd].nan_to_num(), theirs[odd].nan_to_num()), "another pattern of infinities"
    difference = (ours - theirs)[~odd].norm()
    return float(difference / theirs[~odd].norm().clamp(min=least))


def compare(
    group: str, ours: dict[str, Any], theirs: dict[str, Any], tolerance: float, least: float = 1e-6
) -> None:
    """Compare all results of the published package with ours; skip those where it failed."""
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


def differences(found: Any, expected: Any, tolerance: float, path: str = "") -> Iterator[str]:
    """List differences of nested dicts and lists: keys, lengths, values, or tensors beyond the limit."""
    if isinstance(expected, Tensor):
        if not isinstance(found, Tensor) or found.shape != expected.shape or found.dtype != expected.dtype:
            yield f"{path}: {_shape(found)} where {_shape(expected)} was expected"
        elif (error := relative_error(found, expected)) > tolerance:
            yield f"{path}: relative error {error:.1e}"
    elif isinstance(expected, dict) and isinstance(found, dict):
        yield from (f"{path}/{key} is missing" for key in expected if key not in found)
        yield from (f"{path}/{key} is too much" for key in found if key not in expected)
        for key in expected.keys() & found.keys():
            yield from differences(found[key], expected[key], tolerance, f"{path}/{key}")
    elif isinstance(expected, (list, tuple)) and isinstance(found, (list, tuple)):
        if len(found) != len(expected):
            yield f"{path}: {len(found)} where {len(expected)} were expected"
        for index, (ours, theirs) in enumerate(zip(found, expected, strict=False)):
            yield from differences(ours, theirs, tolerance, f"{path}/{index}")
    elif found != expected:
        yield f"{path}: {found!r} where {expected!r} was expected"


def _shape(value: Any) -> str:
    return f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else repr(value)
