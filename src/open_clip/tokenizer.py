"""`open_clip.tokenizer`: CLIP's tokenizer under its published names."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING

from oneclip.errors import ConfigError
from oneclip.text.clean import basic_clean, canonicalize_text, get_clean_fn, whitespace_clean
from oneclip.text.published import SimpleTokenizer as _SimpleTokenizer
from oneclip.text.published import bytes_to_unicode, get_pairs
from oneclip.text.tokenizer import CONTEXT_LENGTH as DEFAULT_CONTEXT_LENGTH
from oneclip.text.vocabulary import default_bpe

if TYPE_CHECKING:
    from torch import LongTensor, Tensor

__all__ = [
    "DEFAULT_CONTEXT_LENGTH",
    "SimpleTokenizer",
    "basic_clean",
    "bytes_to_unicode",
    "canonicalize_text",
    "decode",
    "default_bpe",
    "get_clean_fn",
    "get_pairs",
    "tokenize",
    "whitespace_clean",
]

_DEFAULT_BPE = default_bpe()


class SimpleTokenizer(_SimpleTokenizer):
    """CLIP's tokenizer.

    Args:
        bpe_path: a gzipped merge table.
        additional_special_tokens: tokens beside start and end of text; their ids follow.
        context_length: the length of a row; None to be told at each call.
        clean: what is done to a caption first: "lower", "whitespace" or "canonicalize".
        reduction_mask: how to drop tokens of a caption that is too long; this version truncates only.

    Raises:
        ConfigError: if one of these cannot be.
    """

    def __init__(
        self,
        bpe_path: str | PathLike[str] = _DEFAULT_BPE,
        additional_special_tokens: Sequence[str] | None = None,
        context_length: int | None = DEFAULT_CONTEXT_LENGTH,
        clean: str = "lower",
        reduction_mask: str = "",
    ) -> None:
        if reduction_mask:
            raise ConfigError(
                f"reduction_mask={reduction_mask!r}: this version truncates captions and no more"
            )
        super().__init__(
            context_length,
            clean=clean,
            additional_special_tokens=additional_special_tokens or (),
            merges=bpe_path,
        )


_tokenizer = SimpleTokenizer()


def decode(output_ids: Tensor) -> str:
    """The text of (L,) ids."""
    return _tokenizer.decode(output_ids)


def tokenize(texts: str | Sequence[str], context_length: int = DEFAULT_CONTEXT_LENGTH) -> LongTensor:
    """Captions to (N, L) ids; what does not fit is cut."""
    return _tokenizer(texts, context_length)
