"""A file beside a model to whether it holds the vocabulary that comes with this package, CLIP's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from oneclip.errors import CheckpointError
from oneclip.hub import read_json
from oneclip.text.clip.bpe import byte_merges
from oneclip.text.hf.tokenizer_config import JSON, LARGEST_FILE, VOCAB_JSON

BEGIN, END = "<|startoftext|>", "<|endoftext|>"  # as the files of transformers spell them


def clip_vocabulary() -> dict[str, int]:
    """Token to id: 49,408 of them (Radford et al. 2021, section 2.4)."""
    ids = byte_merges(None).ids
    return {**ids, BEGIN: len(ids), END: len(ids) + 1}


def is_clips_own(path: Path) -> bool:
    """Whether a vocabulary is CLIP's own, token for token; one that cannot be read is not.

    Args:
        path: one of the files that hold a vocabulary, such as `tokenizer.json`.
    """
    if path.name not in (JSON, VOCAB_JSON):
        return False
    try:
        content = read_json(path, LARGEST_FILE)
        return (_all_tokens(content) if path.name == JSON else content) == clip_vocabulary()
    except (CheckpointError, LookupError, TypeError, ValueError):
        return False


def _all_tokens(content: dict[str, Any]) -> dict[str, int]:
    """Those of the model in a `tokenizer.json`, and those that were added to them."""
    added = {token["content"]: token["id"] for token in content.get("added_tokens") or []}
    return {**dict(content["model"]["vocab"]), **added}
