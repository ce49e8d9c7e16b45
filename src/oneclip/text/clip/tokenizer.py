"""Captions to rows of token ids, and ids back to text.

Shapes: N captions, L the context length.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from oneclip.errors import ConfigError, TokenRangeError
from oneclip.text.batching.padding import (
    as_list,
    check_fits,
    check_overflow,
    checked_length,
    one_sequence,
    pack,
)
from oneclip.text.clean import get_clean_fn
from oneclip.text.clip.bpe import default_bpe, vocabulary
from oneclip.text.clip.reduction import get_reduction_mask_fn

if TYPE_CHECKING:
    from torch import LongTensor

CONTEXT_LENGTH = 77  # of the published models (Radford et al. 2021, section 2.4)
SPECIAL_TOKENS = ("<start_of_text>", "<end_of_text>")  # as OpenCLIP spells them; the ids are the same for all


class CLIPTokenizer:
    """CLIP's tokenizer: cleaning, then byte-pair encoding in 49,408 ids (Radford et al. 2021, section 2.4).

    It may be shared between threads, pickled, and used after a fork.

    Args:
        context_length: L, the length of a row; None to be told at each call.
        clean: what is done to a caption first: "lower", "whitespace" or "canonicalize".
        special_tokens: how the start and the end of a text are spelled, should a caption contain them.
        additional_special_tokens: more such tokens; their ids follow.
        merges: a gzipped merge table other than CLIP's.
        reduction_mask: which tokens of a caption that is too long stay, instead of the first: "simple" a
            run of them, "random" any, in order, "shuffle" any, in any order (all three at random, for
            training), "syntax" nouns before adjectives before verbs. See `oneclip.text.clip.reduction`.

    Raises:
        ConfigError: if one of these cannot be.
    """

    def __init__(
        self,
        context_length: int | None = CONTEXT_LENGTH,
        *,
        clean: str = "lower",
        special_tokens: tuple[str, str] = SPECIAL_TOKENS,
        additional_special_tokens: Sequence[str] = (),
        merges: str | PathLike[str] | None = None,
        reduction_mask: str = "",
    ) -> None:
        if isinstance(additional_special_tokens, str) or not isinstance(additional_special_tokens, Sequence):
            raise ConfigError(
                f"additional_special_tokens is {additional_special_tokens!r}; a list of tokens was expected"
            )
        self.context_length = None if context_length is None else checked_length(context_length)
        self.reduction_fn = get_reduction_mask_fn(reduction_mask) if reduction_mask else None
        self.clean_fn = get_clean_fn(clean)
        path = None if merges is None or fspath(merges) == default_bpe() else fspath(merges)
        self.vocabulary = vocabulary(path, (*special_tokens, *additional_special_tokens))
        self.vocab_size = len(self.vocabulary)
        self.all_special_ids = list(self.vocabulary.special_ids.values())
        self.sot_token_id, self.eot_token_id = self.all_special_ids[:2]
        self.pad_token_id = 0

    def __call__(
        self,
        texts: str | Iterable[str],
        context_length: int | None = None,
        *,
        overflow: Literal["truncate", "error"] = "truncate",
    ) -> LongTensor:
        """Tokenize captions for a text tower.

        Args:
            texts: one caption, or N of them.
            context_length: L, where it is not the tokenizer's own.
            overflow: what to do with more than L tokens; "truncate" keeps the first L - 1 and the end, or
                those that `reduction_mask` chooses.

        Returns:
            (N, L) int64 on the CPU: start of text, the caption, end of text, zeros.

        Raises:
            TextTypeError: naming the first text that is not a string.
            TextTooLongError: naming the first text that is too long, when `overflow` is "error".
            ConfigError: if L is unknown or less than 2, or `overflow` is neither of the two.
        """
        import torch

        length = self._length(context_length)
        check_overflow(overflow)
        texts = as_list(texts)
        if self.reduction_fn is not None and overflow == "truncate":
            return self.reduction_fn(texts, length, self.sot_token_id, self.eot_token_id, self.encode)
        ids, counts = self._flat(texts)
        if overflow == "error":
            check_fits(texts, counts + 2, length)
        rows = pack(ids, counts, length, [self.sot_token_id], [self.eot_token_id], self.pad_token_id)
        return torch.from_numpy(rows)  # type: ignore[return-value]

    def encode(self, text: str) -> list[int]:
        """The ids of one text, without start and end, however long.

        Raises:
            TextTypeError: if it is not a string.
        """
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """The ids of each text, without start and end, however long.

        Raises:
            TextTypeError: naming the first text that is not a string.
        """
        ids, counts = self._flat(as_list(texts))
        flat, ends = ids.tolist(), np.cumsum(counts).tolist()
        return [flat[end - count : end] for end, count in zip(ends, counts.tolist(), strict=True)]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids: a space after each word, special tokens included, padding read as the "!" it is.

        Args:
            ids: (L,) integers; a tensor, an array or a list.

        Raises:
            TokenRangeError: naming the first id outside the vocabulary.
            ShapeError: if this is not one sequence of integers.
        """
        values = one_sequence(ids)
        for place, value in enumerate(values):
            if not 0 <= value < self.vocab_size:
                raise TokenRangeError(
                    f"token id {value} at place {place} is outside the vocabulary, 0 to {self.vocab_size - 1}"
                )
        return self.vocabulary.decode(values)

    def _length(self, context_length: int | None) -> int:
        """The length of this call's rows."""
        if context_length is not None:
            return checked_length(context_length)
        if self.context_length is None:
            raise ConfigError("this tokenizer has no context length of its own; pass context_length")
        return self.context_length

    def _flat(self, texts: list[str]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """The ids of all texts in a row, and how many each has (N,)."""
        return self.vocabulary.words(list(map(self.clean_fn, texts)))
