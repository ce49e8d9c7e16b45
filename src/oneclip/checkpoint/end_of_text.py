"""Make the pooling of a text tower find the end of text that its tokenizer writes.

CLIP pools the greatest id of a row, which is the end of text as long as no token was added behind it.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from oneclip.config import ModelCfg
from oneclip.errors import ConfigError, OneCLIPError
from oneclip.text import CLIPTokenizer, HFTokenizer, get_tokenizer


def pooled_at_end(
    cfg: ModelCfg, home: str | Path | None = None, cache_dir: str | os.PathLike[str] | None = None
) -> ModelCfg:
    """The configuration, pooling at the end-of-text id where its own pooling would choose another token.

    Args:
        cfg: of the model.
        home: where its tokenizer may lie, as in `Loaded`.
        cache_dir: where downloads are kept, instead of the usual folders.

    Raises:
        ConfigError: if it pools at an id that no row of the tokenizer has, and the tokenizer has no end of text.
    """
    text = cfg.text_cfg
    is_plain = not text.hf_tokenizer_name and not (text.tokenizer_kwargs or {}).get(
        "additional_special_tokens"
    )
    if text.hf_model_name or text.embed_cls or text.pool_type not in ("argmax", "eos"):
        return cfg
    if is_plain and text.pool_type == "argmax":
        return cfg
    try:
        tokenizer = get_tokenizer(text, home, cache_dir)
        row = tokenizer(["a"])[0].tolist()
    except OneCLIPError:  # said when a text comes
        return cfg
    end = None
    if isinstance(tokenizer, CLIPTokenizer):
        end, added = tokenizer.eot_token_id, set(tokenizer.all_special_ids)
    elif isinstance(tokenizer, HFTokenizer):
        end, added = tokenizer.token_id("eos"), tokenizer.pieces.added
    if text.pool_type == "eos" and text.eos_id in row:
        return cfg
    if text.pool_type == "argmax" and (
        end not in row or not _only_added_behind(end, tokenizer.vocab_size, added)
    ):
        return cfg
    if end not in row:
        raise ConfigError(
            f"the text tower pools at id {text.eos_id} (eos_id), which its tokenizer puts into no row: let eos_id be "
            "the id of the tokenizer's end of text"
        )
    return replace(cfg, text_cfg=replace(text, pool_type="eos", eos_id=end))


def _only_added_behind(end: int, vocab_size: int, added: set[int]) -> bool:
    """Whether tokens were added behind the end of text, and nothing else stands there."""
    return end + 1 < vocab_size and all(i in added for i in range(end + 1, vocab_size))
