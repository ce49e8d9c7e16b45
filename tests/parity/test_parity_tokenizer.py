"""Token ids of random strings, against the tokenizers of both packages."""

from __future__ import annotations

from typing import Any

import reference

import clip
import open_clip


def test_open_clips_ids_are_identical(published_open_clip: Any) -> None:
    same(reference.tokens(open_clip.tokenizer._tokenizer, open_clip.tokenize), published_open_clip["tokens"])


def test_openais_ids_are_identical(published_clip: Any) -> None:
    ours = reference.tokens(clip.clip._tokenizer, lambda texts: clip.tokenize(texts, truncate=True))
    same(ours, published_clip["tokens"])


def same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    captions = list(reference.random_texts())
    for caption, found, expected in zip(captions, ours["ids"], theirs["ids"], strict=True):
        assert found == expected, repr(caption)
    for caption, found, expected in zip(captions, ours["decoded"], theirs["decoded"], strict=True):
        assert found == expected, repr(caption)
    assert ours["rows"].equal(theirs["rows"])
