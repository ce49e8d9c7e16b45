"""Token ids of random strings, against the tokenizers of both packages."""

from __future__ import annotations

from typing import Any

import reference

import clip
import open_clip


def test_open_clips_ids_are_identical(published_open_clip: Any) -> None:
    ours = reference.tokens("open_clip", open_clip.tokenizer._tokenizer, open_clip.tokenize)
    same(reference.random_texts("open_clip"), ours, published_open_clip["tokens"])


def test_openais_ids_are_identical(published_clip: Any) -> None:
    ours = reference.tokens("clip", clip.clip._tokenizer, lambda texts: clip.tokenize(texts, truncate=True))
    same(reference.random_texts("clip"), ours, published_clip["tokens"])


def same(captions: list[str], ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    for caption, found, expected in zip(captions, ours["ids"], theirs["ids"], strict=True):
        assert found == expected, repr(caption)
    for caption, found, expected in zip(captions, ours["decoded"], theirs["decoded"], strict=True):
        assert found == expected, repr(caption)
    assert ours["rows"].equal(theirs["rows"])
