"""Parts of `open_clip.transformer` against those of open_clip_torch, with the same arguments and weights."""

from __future__ import annotations

from functools import cache
from typing import Any

import cases_transformer
import pytest
from parity_compare import compare

import open_clip
import open_clip.transformer

TOLERANCE = 1e-5  # relative, in fp32
PARTS = tuple(cases_transformer.cases(open_clip.transformer))


@cache
def ours() -> dict[str, Any]:
    return cases_transformer.observe(open_clip)


@pytest.fixture
def theirs(published_open_clip: Any) -> dict[str, Any]:
    return published_open_clip["transformer"]


@pytest.mark.parametrize("name", PARTS)
def test_a_part_of_the_published_arguments_gives_the_published_numbers(
    name: str, theirs: dict[str, Any]
) -> None:
    expected = {key: value for key, value in theirs.items() if key.startswith(f"{name}/")}
    assert len(expected) > 1
    compare("parts of open_clip.transformer", ours(), expected, TOLERANCE)


def test_pooling_and_locking_do_what_the_published_functions_do(theirs: dict[str, Any]) -> None:
    expected = {key: value for key, value in theirs.items() if key.startswith(("pool ", "lock "))}
    assert len(expected) == 10
    compare("parts of open_clip.transformer", ours(), expected, TOLERANCE)


@pytest.mark.parametrize("name", cases_transformer.NAMES)
def test_the_arguments_are_the_published_ones(name: str, theirs: dict[str, Any]) -> None:
    assert ours()["arguments"][name] == theirs["arguments"][name]
