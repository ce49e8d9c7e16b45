"""`open_clip.tokenizer`: CLIP's tokenizer and Hugging Face tokenizers."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from functools import cached_property
from os import PathLike
from typing import Any

import torch
from torch import LongTensor, Tensor

from oneclip.errors import ConfigError, MissingExtraError
from oneclip.text.clean import basic_clean, canonicalize_text, get_clean_fn, whitespace_clean
from oneclip.text.clean import clean_canonicalize as _clean_canonicalize
from oneclip.text.clean import clean_text as _clean_lower
from oneclip.text.clean import clean_whitespace as _clean_whitespace
from oneclip.text.clip.bpe import default_bpe
from oneclip.text.clip.legacy_attrs import SimpleTokenizer as _SimpleTokenizer
from oneclip.text.clip.legacy_attrs import bytes_to_unicode, get_pairs
from oneclip.text.clip.reduction import (
    get_reduction_mask_fn,
    random_mask_tokenize,
    simple_mask_tokenize,
    syntax_mask_tokenize,
)
from oneclip.text.clip.tokenizer import CONTEXT_LENGTH as DEFAULT_CONTEXT_LENGTH
from oneclip.text.hf.siglip import SigLipTokenizer
from oneclip.text.hf.tokenizer import HFTokenizer as _HFTokenizer

__all__ = [
    "DEFAULT_CONTEXT_LENGTH",
    "HFTokenizer",
    "SigLipTokenizer",
    "SimpleTokenizer",
    "basic_clean",
    "bytes_to_unicode",
    "canonicalize_text",
    "decode",
    "default_bpe",
    "get_clean_fn",
    "get_pairs",
    "get_reduction_mask_fn",
    "random_mask_tokenize",
    "simple_mask_tokenize",
    "syntax_mask_tokenize",
    "tokenize",
    "whitespace_clean",
]

_DEFAULT_BPE = default_bpe()
_nltk_init = False  # programs read this; nltk's data is never downloaded here


class SimpleTokenizer(_SimpleTokenizer):
    """CLIP's tokenizer.

    Args:
        bpe_path: path of a gzipped merge table.
        additional_special_tokens: tokens added after start and end of text.
        context_length: length of a row; None to set it at each call.
        clean: text cleaning: "lower", "whitespace" or "canonicalize".
        reduction_mask: how texts that are too long are shortened: "" keeps the first tokens; others are "simple",
            "random", "shuffle" and "syntax".

    Raises:
        ConfigError: for an invalid argument.
    """

    def __init__(
        self,
        bpe_path: str | PathLike[str] = _DEFAULT_BPE,
        additional_special_tokens: Sequence[str] | None = None,
        context_length: int | None = DEFAULT_CONTEXT_LENGTH,
        clean: str = "lower",
        reduction_mask: str = "",
    ) -> None:
        super().__init__(
            context_length,
            clean=clean,
            additional_special_tokens=additional_special_tokens or (),
            merges=bpe_path,
            reduction_mask=reduction_mask,
        )


class HFTokenizer(_HFTokenizer):
    """Tokenizer of a repository or folder, read without transformers.

    Args:
        tokenizer_name: a folder, or a repository on the hub.
        context_length: length of a row; None to set it at each call.
        clean: text cleaning: "lower", "whitespace" or "canonicalize".
        strip_sep_token: replace separators by zeros.
        language: language code of the texts, for tokenizers that add one.
        cache_dir: folder for downloads; None for the default.
        tokenizer_mode: None or "clips".
        kwargs: options that override those in the tokenizer's files, for example `padding_side="right"`.

    Raises:
        ConfigError, CheckpointError, DownloadError: as `oneclip.text.HFTokenizer`.
    """

    def __init__(
        self,
        tokenizer_name: str | PathLike[str],
        context_length: int | None = DEFAULT_CONTEXT_LENGTH,
        clean: str = "whitespace",
        strip_sep_token: bool = False,
        language: str | None = None,
        cache_dir: str | None = None,
        tokenizer_mode: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            tokenizer_name,
            context_length,
            clean=clean,
            strip_sep_token=strip_sep_token,
            tokenizer_mode=tokenizer_mode,
            cache_dir=cache_dir,
            **kwargs,
        )
        if language is not None:
            self.set_language(language)

    def set_language(self, src_lang: str | None) -> None:
        """Set the language of the texts; warn if the tokenizer has no language codes."""
        if self.carries_language:
            super().set_language(src_lang)
        else:
            warnings.warn("Cannot set language for the tokenizer.", stacklevel=2)

    def _clips_tokenize(self, texts: list[str], context_length: int) -> Tensor:
        """Convert cleaned texts to rows: start, text, end, padding, and the class token last."""
        return torch.from_numpy(self._clips_rows(self.backend.encode(texts), context_length))

    def _pad_and_add_class_token(
        self, tokens: list[int], max_length: int, pad_token_id: int = 0, cls_token_id: int = 101
    ) -> list[int]:
        """Cut or pad tokens to `max_length`, with the class token last."""
        kept = tokens[: max_length - 1]
        return [*kept, *[pad_token_id] * (max_length - 1 - len(kept)), cls_token_id]

    @cached_property
    def tokenizer(self) -> Any:
        """Load the tokenizer of transformers from the same files, for programs that read it; changing it has no effect.

        Raises:
            MissingExtraError: if transformers is not installed.
            ConfigError: if transformers cannot load the files.
        """
        try:
            from transformers import AutoTokenizer
        except ImportError as error:
            raise MissingExtraError("The tokenizer of transformers", "hf") from error
        folders = {os.path.dirname(path) for path in self.files.values()}
        if len(folders) != 1:
            raise ConfigError(
                f"the files of {self.name} are in {len(folders)} folders; transformers needs them in one"
            )
        try:
            return AutoTokenizer.from_pretrained(folders.pop(), trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"transformers cannot load a tokenizer from the files of {self.name}: {error}"
            ) from error


_tokenizer = SimpleTokenizer()


def decode(output_ids: Tensor) -> str:
    """Decode (L,) ids to text."""
    return _tokenizer.decode(output_ids)


def tokenize(texts: str | Sequence[str], context_length: int = DEFAULT_CONTEXT_LENGTH) -> LongTensor:
    """Convert texts to (N, L) ids; longer texts are cut."""
    return _tokenizer(texts, context_length)
