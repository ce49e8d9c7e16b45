"""Make a text tower pool at the end-of-text token that its tokenizer writes.

CLIP pools at the greatest id of a row. That is the end of text, unless tokens with greater ids were added to the
vocabulary.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from oneclip.config import ModelCfg
from oneclip.errors import ConfigError, OneCLIPError
from oneclip.text import CLIPTokenizer, HFTokenizer, Tokenizer, get_tokenizer


def pool_at_end_of_text(
    cfg: ModelCfg, home: str | Path | None = None, cache_dir: str | os.PathLike[str] | None = None
) -> ModelCfg:
    """Pool at the end-of-text id if the pooling of the configuration would choose another token.

    Args:
        cfg: configuration of the model.
        home: folder or repository of the model, which may contain its tokenizer.
        cache_dir: where downloads are stored, instead of the usual folders.

    Returns:
        The configuration, unchanged if it already pools at the end of text or if the tokenizer cannot be loaded.

    Raises:
        ConfigError: if it pools at an id that its tokenizer never writes, and the tokenizer has no end of text.
    """
    text = cfg.text_cfg
    if text.hf_model_name or text.embed_cls or text.pool_type not in ("argmax", "eos"):
        return cfg
    has_added = bool((text.tokenizer_kwargs or {}).get("additional_special_tokens"))
    if text.pool_type == "argmax" and not text.hf_tokenizer_name and not has_added:
        return cfg  # CLIP's own tokenizer: end of text is the greatest id
    try:
        tokenizer = get_tokenizer(text, home, cache_dir)
        row = tokenizer([""])[0].tolist()
    except OneCLIPError:  # will be reported when a text is encoded
        return cfg
    end = _end_of_text_id(tokenizer)
    if text.pool_type == "eos":
        agrees = text.eos_id in row
    else:
        agrees = end not in row or not _follows_only_added(end, tokenizer)
    if agrees:
        return cfg
    if end not in row:
        raise ConfigError(
            f"the text tower pools at id {text.eos_id} (eos_id), which its tokenizer never writes: set eos_id to the "
            "id of the tokenizer's end-of-text token"
        )
    return replace(cfg, text_cfg=replace(text, pool_type="eos", eos_id=end))


def _end_of_text_id(tokenizer: Tokenizer) -> int:
    """Return the id of the end of text, or -1 if the tokenizer has none."""
    if isinstance(tokenizer, CLIPTokenizer):
        return tokenizer.eot_token_id
    end = tokenizer.token_id("eos") if isinstance(tokenizer, HFTokenizer) else None
    return -1 if end is None else end


def _follows_only_added(end: int, tokenizer: Tokenizer) -> bool:
    """Check whether all ids greater than the end of text belong to added tokens, and there are some."""
    if isinstance(tokenizer, CLIPTokenizer):
        added = set(tokenizer.all_special_ids)
    else:
        added = tokenizer.backend.added if isinstance(tokenizer, HFTokenizer) else set()
    greater = range(end + 1, tokenizer.vocab_size)
    return bool(greater) and added.issuperset(greater)
