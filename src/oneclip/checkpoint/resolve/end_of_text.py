"""Make the pooling of a text tower find the end of text that its tokenizer writes.

CLIP pools the greatest id of a row, which is the end of text as long as no token was added behind it.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from oneclip.config import ModelCfg
from oneclip.errors import ConfigError, OneCLIPError
from oneclip.text import CLIPTokenizer, HFTokenizer, Tokenizer, get_tokenizer


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
    if text.hf_model_name or text.embed_cls or text.pool_type not in ("argmax", "eos"):
        return cfg
    has_added = bool((text.tokenizer_kwargs or {}).get("additional_special_tokens"))
    if text.pool_type == "argmax" and not text.hf_tokenizer_name and not has_added:
        return cfg  # CLIP's own tokenizer, whose end of text is the last id
    try:
        tokenizer = get_tokenizer(text, home, cache_dir)
        row = tokenizer([""])[0].tolist()
    except OneCLIPError:  # said when a text comes
        return cfg
    end = _end_of(tokenizer)
    if text.pool_type == "eos":
        agrees = text.eos_id in row
    else:
        agrees = end not in row or not _only_added_behind(end, tokenizer)
    if agrees:
        return cfg
    if end not in row:
        raise ConfigError(
            f"the text tower pools at id {text.eos_id} (eos_id), which its tokenizer puts into no row: let eos_id be "
            "the id of the tokenizer's end of text"
        )
    return replace(cfg, text_cfg=replace(text, pool_type="eos", eos_id=end))


def _end_of(tokenizer: Tokenizer) -> int:
    """The id of the end of text; -1 where there is none."""
    if isinstance(tokenizer, CLIPTokenizer):
        return tokenizer.eot_token_id
    end = tokenizer.token_id("eos") if isinstance(tokenizer, HFTokenizer) else None
    return -1 if end is None else end


def _only_added_behind(end: int, tokenizer: Tokenizer) -> bool:
    """Whether tokens were added behind the end of text, and nothing else stands there."""
    if isinstance(tokenizer, CLIPTokenizer):
        added = set(tokenizer.all_special_ids)
    else:
        added = tokenizer.pieces.added if isinstance(tokenizer, HFTokenizer) else set()
    behind = range(end + 1, tokenizer.vocab_size)
    return bool(behind) and added.issuperset(behind)
