"""`clip.simple_tokenizer`: OpenAI's tokenizer under its published names."""

from __future__ import annotations

from os import PathLike

from oneclip.text.clean import basic_clean, whitespace_clean
from oneclip.text.clip.bpe import default_bpe
from oneclip.text.clip.legacy_attrs import SimpleTokenizer as _SimpleTokenizer
from oneclip.text.clip.legacy_attrs import bytes_to_unicode, get_pairs

__all__ = [
    "SimpleTokenizer",
    "basic_clean",
    "bytes_to_unicode",
    "default_bpe",
    "get_pairs",
    "whitespace_clean",
]

_DEFAULT_BPE = default_bpe()


class SimpleTokenizer(_SimpleTokenizer):
    """CLIP's tokenizer, with OpenAI's spelling of the start and end tokens.

    Args:
        bpe_path: path of a gzipped merge table.
    """

    def __init__(self, bpe_path: str | PathLike[str] = _DEFAULT_BPE) -> None:
        super().__init__(special_tokens=("<|startoftext|>", "<|endoftext|>"), merges=bpe_path)
