"""The linear probe with compat, against CLIP_benchmark's own on the same embeddings, seed and schedule."""

from __future__ import annotations

from typing import Any

import cases_linear_probe
import pytest


@pytest.fixture(scope="module")
def ours() -> dict[str, dict[str, float]]:
    return cases_linear_probe.of_oneclip()


@pytest.mark.parametrize("case", cases_linear_probe.CASES)
def test_metrics_and_weight_decay_are_those_of_clip_benchmark(
    case: str, ours: dict[str, dict[str, float]], published_clip_benchmark: Any
) -> None:
    expected, found = published_clip_benchmark["linear probe"][case], ours[case]
    assert found == pytest.approx({name: expected[name] for name in found}, rel=0, abs=1e-6, nan_ok=True)
