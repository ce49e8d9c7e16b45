"""Metrics of an evaluation with compat, against CLIP_benchmark's own functions."""

from __future__ import annotations

from typing import Any

import cases_evaluate
import cases_evaluate_runs
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


@pytest.fixture(scope="module")
def our_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return cases_evaluate_runs.of_oneclip(open_clip, tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize("kind", cases_evaluate_runs.KINDS)
def test_result_files_are_those_of_clip_benchmark(
    kind: str, our_files: dict[str, dict[str, Any]], published_clip_benchmark: Any
) -> None:
    expected, found = published_clip_benchmark["evaluate runs"][kind], our_files[kind]
    assert found["metrics"] == pytest.approx(expected["metrics"], rel=0, abs=1e-6, nan_ok=True)
    assert found.keys() == expected.keys()
    assert (found["task"], found["language"]) == (expected["task"], expected["language"])
