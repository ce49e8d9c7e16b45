"""The facade of OpenAI's package, against that package on the same random weights."""

from __future__ import annotations

from typing import Any

import cases_clip
import pytest
from parity_compare import compare

import clip

TOLERANCE = 1e-4  # relative, in fp32


@pytest.mark.parametrize("name", cases_clip.SMALL)
def test_a_model_gives_what_openais_gives(name: str, published_clip: Any) -> None:
    found, theirs = cases_clip.observe(clip, cases_clip.SMALL[name]), dict(published_clip["small"][name])
    compare("clip in fp16", found.pop("half"), theirs.pop("half"), 2e-3)
    compare("clip, small models", found, theirs, TOLERANCE)


@pytest.mark.parametrize("name", cases_clip.FULL)
def test_a_full_size_model_gives_what_openais_gives(name: str, published_clip: Any) -> None:
    found = cases_clip.observe(clip, cases_clip.FULL[name])
    compare(f"clip, {name}", found, published_clip["full"][name], TOLERANCE)


def test_arguments_names_and_urls_are_openais(published_clip: Any) -> None:
    found, theirs = cases_clip.signatures(clip), published_clip["signatures"]
    for name, expected in theirs.items():
        assert found[name] == expected, name
