"""The factory, its lists and its helpers, against open_clip_torch."""

from __future__ import annotations

from functools import cache
from typing import Any

import cases_factory
import cases_factory_differences
import pytest
from parity_compare import compare

import open_clip

TOLERANCE = 1e-5  # relative, in fp32
LOW = 2e-2  # in bf16, with a resolution of 0.4 %

DIFFERENT = {
    ("lists", "cfg ViT-B-16-plus-240 laion400m_e32"): "the repository there is that of the epoch before",
}


@cache
def ours() -> dict[str, Any]:
    return cases_factory.observe(open_clip)


@cache
def our_probes() -> dict[str, bool]:
    return cases_factory_differences.observe(open_clip)


def same(group: str, theirs: Any, tolerance: float = TOLERANCE) -> None:
    expected = {
        key: value for key, value in theirs["factory"][group].items() if (group, key) not in DIFFERENT
    }
    if not group.startswith(
        "precision, bf16 small-coca"
    ):  # whose matrices have two dtypes in the published package
        assert not str(expected.get("outcome", "")).startswith("raised"), expected
    compare("factory, bf16" if tolerance == LOW else "factory", ours()[group], expected, tolerance)


@pytest.mark.parametrize("name", cases_factory.OPTIONS)
def test_an_option_gives_the_published_model(name: str, published_open_clip: Any) -> None:
    same(f"option, {name}", published_open_clip)


@pytest.mark.parametrize("name", cases_factory.NAMES)
@pytest.mark.parametrize("precision", cases_factory.PRECISIONS)
def test_a_precision_gives_the_published_dtypes(precision: str, name: str, published_open_clip: Any) -> None:
    same(f"precision, {precision} {name}", published_open_clip, LOW if "bf16" in precision else TOLERANCE)


@pytest.mark.parametrize("group", ["towers", "compiled", "tokenizers", "lists", "losses", "helpers"])
def test_the_rest_of_the_factory_gives_what_was_published(group: str, published_open_clip: Any) -> None:
    same(group, published_open_clip)


@pytest.mark.parametrize("name", cases_factory_differences.PROBES)
def test_listed_differences_of_the_factory_exist(name: str, published_open_clip: Any) -> None:
    assert our_probes()[name]
    assert not published_open_clip["factory differences"][name]
