"""Hugging Face tokenizers and random text reduction, against open_clip_torch."""

from __future__ import annotations

from typing import Any

import cases_text
import pytest

import open_clip


@pytest.fixture(scope="module")
def ours() -> dict[str, Any]:
    return cases_text.observe(open_clip)


def test_rows_of_every_kind_of_tokenizer_are_identical(ours: Any, published_open_clip: Any) -> None:
    theirs = published_open_clip["text"]["rows"]
    assert theirs.keys() == ours["rows"].keys()
    for what, rows in theirs.items():
        for caption, found, expected in zip(cases_text.CAPTIONS, ours["rows"][what], rows, strict=False):
            assert found.tolist() == expected.tolist(), (what, caption)
        assert ours["rows"][what].shape == rows.shape


def test_the_language_that_was_set_is_in_the_rows(ours: Any, published_open_clip: Any) -> None:
    """The published package ignores the language: transformers resets it before each call."""
    theirs = published_open_clip["text"]
    assert theirs["language"].equal(theirs["rows"]["nllb, 8"])
    assert not ours["language"][:, 0].eq(theirs["language"][:, 0]).any()
    assert ours["language"][:, 1:].equal(theirs["language"][:, 1:])


def test_texts_are_reduced_with_the_same_random_numbers(ours: Any, published_open_clip: Any) -> None:
    theirs = published_open_clip["text"]["reduced"]
    assert theirs.keys() == ours["reduced"].keys()
    for what, (rows, *drawn) in theirs.items():
        assert ours["reduced"][what][0].equal(rows), what
        assert list(ours["reduced"][what][1:]) == drawn, what
