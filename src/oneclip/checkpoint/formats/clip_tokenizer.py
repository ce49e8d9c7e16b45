"""Write CLIP's tokenizer as the files that transformers' `CLIPTokenizer` loads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from oneclip.text.clip.bpe import END_OF_WORD, byte_merges
from oneclip.text.clip.clip_vocab import END_OF_TEXT, START_OF_TEXT, clip_vocabulary

# CLIP's regular expression for splitting a text into words (Radford et al. 2021).
_PIECES = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def write_clip_tokenizer(folder: Path, context_length: int, added: Sequence[str] = ()) -> None:
    """Write `vocab.json`, `merges.txt`, `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json`.

    Args:
        folder: an existing folder.
        context_length: maximum number of tokens of a text, including start and end.
        added: additional special tokens; their ids follow the vocabulary.
    """
    vocabulary, merges = clip_vocabulary(), byte_merges(None).pairs
    _write_json(folder / "vocab.json", vocabulary)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special: dict[str, Any] = {
        "bos_token": START_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "unk_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
    }
    if added:
        special["additional_special_tokens"] = list(added)
        _write_json(
            folder / "added_tokens.json", {token: len(vocabulary) + i for i, token in enumerate(added)}
        )
    _write_json(folder / "special_tokens_map.json", special)
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": context_length, "do_lower_case": True}
    _write_json(folder / "tokenizer_config.json", config | special)
    (folder / "tokenizer.json").write_text(_tokenizer_json(vocabulary, merges, added), encoding="utf-8")


def _tokenizer_json(vocabulary: dict[str, int], merges: list[tuple[str, str]], added: Sequence[str]) -> str:
    """Return the content of `tokenizer.json`, the same tokenizer for the tokenizers library."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
    from tokenizers.models import BPE

    model = BPE(vocabulary, merges, unk_token=END_OF_TEXT, end_of_word_suffix=END_OF_WORD)
    model.continuing_subword_prefix = ""  # readers require this key
    tokenizer = Tokenizer(model)
    cleaning = [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    tokenizer.normalizer = normalizers.Sequence(cleaning)
    # The expression matches the words; everything between two words is removed.
    splitting = [
        pre_tokenizers.Split(Regex(_PIECES), "removed", invert=True),
        pre_tokenizers.ByteLevel(False),
    ]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splitting)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(START_OF_TEXT, normalized=True), AddedToken(END_OF_TEXT, normalized=False)]
    )
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in added])
    begin, end = ((token, vocabulary[token]) for token in (START_OF_TEXT, END_OF_TEXT))
    tokenizer.post_processor = processors.RobertaProcessing(end, begin, False, False)
    text: str = tokenizer.to_str(pretty=True)
    return text


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
