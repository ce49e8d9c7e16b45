"""CLIP's vocabulary to the files that transformers' `CLIPTokenizer` is loaded from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from oneclip.text.clip.bpe import END_OF_WORD, byte_merges
from oneclip.text.clip.clip_vocab import BEGIN, END, clip_vocabulary

# what a caption falls into before its words are encoded: CLIP's own expression, of Radford et al. 2021
_PIECES = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def write_clip_tokenizer(folder: Path, context_length: int, added: Sequence[str] = ()) -> None:
    """Write `vocab.json`, `merges.txt`, `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json`.

    Args:
        folder: where to.
        context_length: tokens of a text, with start and end.
        added: special tokens whose ids follow.
    """
    vocabulary, merges = clip_vocabulary(), byte_merges(None).pairs
    _write(folder / "vocab.json", vocabulary)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special: dict[str, Any] = {"bos_token": BEGIN, "eos_token": END, "unk_token": END, "pad_token": END}
    if added:
        special["additional_special_tokens"] = list(added)
        _write(folder / "added_tokens.json", {token: len(vocabulary) + i for i, token in enumerate(added)})
    _write(folder / "special_tokens_map.json", special)
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": context_length, "do_lower_case": True}
    _write(folder / "tokenizer_config.json", config | special)
    (folder / "tokenizer.json").write_text(_pipeline(vocabulary, merges, added), encoding="utf-8")


def _pipeline(vocabulary: dict[str, int], merges: list[tuple[str, str]], added: Sequence[str]) -> str:
    """`tokenizer.json`: the same tokenizer as one pipeline of the tokenizers library."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
    from tokenizers.models import BPE

    model = BPE(vocabulary, merges, unk_token=END, end_of_word_suffix=END_OF_WORD)
    model.continuing_subword_prefix = ""  # which readers expect to be there
    tokenizer = Tokenizer(model)
    before = [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    tokenizer.normalizer = normalizers.Sequence(before)
    # the expression says what a piece is, so that what lies between two pieces goes
    cut = [pre_tokenizers.Split(Regex(_PIECES), "removed", invert=True), pre_tokenizers.ByteLevel(False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(cut)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(BEGIN, normalized=True), AddedToken(END, normalized=False)])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in added])
    begin, end = ((token, vocabulary[token]) for token in (BEGIN, END))
    tokenizer.post_processor = processors.RobertaProcessing(end, begin, False, False)
    text: str = tokenizer.to_str(pretty=True)
    return text


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
