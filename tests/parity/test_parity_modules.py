"""The modules inside a model, against those of the published packages on the same weights."""

from __future__ import annotations

from typing import Any

import cases_modules
import cases_patches
import cases_random
import pytest
import torch
from parity_compare import compare

import clip
import open_clip


@pytest.fixture(scope="module")
def ours() -> dict[str, dict[str, Any]]:
    return {"open_clip": cases_modules.of_open_clip(open_clip), "clip": cases_modules.of_clip(clip)}


@pytest.fixture(scope="module")
def patched() -> dict[str, dict[str, Any]]:
    return {"open_clip": cases_patches.of_open_clip(open_clip), "clip": cases_patches.of_clip(clip)}


@pytest.mark.parametrize("name", cases_modules.OPEN_CLIP)
def test_hooks_on_every_module_of_open_clip_see_what_they_see_there(
    name: str, ours: dict[str, Any], published_open_clip: Any
) -> None:
    assert not cases_modules.differences(ours["open_clip"][name], published_open_clip["modules"][name])


@pytest.mark.parametrize("name", cases_modules.CLIP)
def test_hooks_on_every_module_of_clip_see_what_they_see_there(
    name: str, ours: dict[str, Any], published_clip: Any
) -> None:
    assert not cases_modules.differences(ours["clip"][name], published_clip["modules"][name])


@pytest.mark.parametrize("name", {**cases_patches.PROBES, **cases_patches.OF_OPEN_CLIP})
def test_what_programs_do_to_open_clip_does_what_it_does_there(
    name: str, patched: dict[str, Any], published_open_clip: Any
) -> None:
    found, expected = patched["open_clip"][name], published_open_clip["patches"][name]
    assert found.keys() == expected.keys()
    compare("open_clip, patched", found, expected, 1e-5)


@pytest.mark.parametrize("name", cases_patches.PROBES)
def test_what_programs_do_to_clip_does_what_it_does_there(
    name: str, patched: dict[str, Any], published_clip: Any
) -> None:
    found, expected = patched["clip"][name], published_clip["patches"][name]
    assert found.keys() == expected.keys()
    compare("clip, patched", found, expected, 1e-5)


def test_open_clip_draws_the_random_numbers_that_it_draws_there(published_open_clip: Any) -> None:
    assert_equal(cases_random.of_open_clip(open_clip), published_open_clip["random"])


def test_clip_draws_the_random_numbers_that_it_draws_there(published_clip: Any) -> None:
    assert_equal(cases_random.of_clip(clip), published_clip["random"])


def assert_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
