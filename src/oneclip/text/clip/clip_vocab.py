"""Recognize CLIP's own vocabulary in tokenizer files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from oneclip.errors import CheckpointError
from oneclip.hub import read_json
from oneclip.text.clip.bpe import byte_merges
from oneclip.text.hf.tokenizer_config import MAX_FILE_BYTES, TOKENIZER_JSON, VOCAB_JSON

START_OF_TEXT, END_OF_TEXT = "<|startoftext|>", "<|endoftext|>"  # spelling in transformers' files


def clip_vocabulary() -> dict[str, int]:
    """Return CLIP's vocabulary, token to id: 49,408 tokens (Radford et al. 2021, section 2.4)."""
    ids = byte_merges(None).ids
    return {**ids, START_OF_TEXT: len(ids), END_OF_TEXT: len(ids) + 1}


def is_clip_vocabulary(path: Path) -> bool:
    """Report whether a file contains exactly CLIP's vocabulary; False if it cannot be read.

    Args:
        path: a vocabulary file such as `tokenizer.json`.
    """
    if path.name not in (TOKENIZER_JSON, VOCAB_JSON):
        return False
    try:
        content = read_json(path, MAX_FILE_BYTES)
        return (_all_tokens(content) if path.name == TOKENIZER_JSON else content) == clip_vocabulary()
    except (CheckpointError, LookupError, TypeError, ValueError):
        return False


def _all_tokens(content: dict[str, Any]) -> dict[str, int]:
    """Return the tokens of a `tokenizer.json`, including added tokens."""
    added = {token["content"]: token["id"] for token in content.get("added_tokens") or []}
    return {**dict(content["model"]["vocab"]), **added}
