"""Metrics of an evaluation with compat, against CLIP_benchmark's own functions."""

from __future__ import annotations

from typing import Any

import cases_evaluate
import pytest

import open_clip


@pytest.fixture(scope="module")
def ours() -> dict[str, dict[str, float]]:
    return cases_evaluate.of_oneclip(open_clip)


@pytest.mark.parametrize(
    "task",
    [
        "classes",
        "five classes",
        "three classes",
        "prompts of each class",
        "multilabel",
        "retrieval",
        "two images and captions",
        "an image and two captions",
    ],
)
def test_metrics_are_those_of_clip_benchmark(
    task: str, ours: dict[str, dict[str, float]], published_clip_benchmark: Any
) -> None:
    expected = published_clip_benchmark["evaluate"][task]
    assert ours[task] == pytest.approx(expected, rel=0, abs=1e-6, nan_ok=True)
