"""CLIP's own tokenizer.

Shapes: N texts, L context length.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from oneclip.errors import ConfigError
from oneclip.text.batching.padding import (
    as_id_list,
    as_text_list,
    check_context_length,
    check_lengths,
    check_overflow,
    check_token_range,
    pack_rows,
)
from oneclip.text.clean import get_clean_fn
from oneclip.text.clip.bpe import default_bpe, vocabulary
from oneclip.text.clip.reduction import get_reduction_mask_fn

if TYPE_CHECKING:
    from torch import LongTensor

CONTEXT_LENGTH = 77  # Radford et al. 2021, section 2.4
SPECIAL_TOKENS = ("<start_of_text>", "<end_of_text>")  # OpenCLIP's spelling; the ids do not depend on it


class CLIPTokenizer:
    """CLIP's tokenizer: cleaning, then byte-pair encoding in 49,408 ids (Radford et al. 2021, section 2.4).

    It may be shared between threads, pickled, and used after a fork.

    Args:
        context_length: L, the length of a row; None if each call passes it.
        clean: cleaning of a text: "lower", "whitespace" or "canonicalize".
        special_tokens: spelling of start and end of text inside a text.
        additional_special_tokens: more special tokens, with the next ids.
        merges: a gzipped merge table; None for CLIP's.
        reduction_mask: which tokens of a text that is too long are kept, if not the first: "simple" consecutive tokens
            from a random start, "random" random tokens in order, "shuffle" random tokens in random order (these three
            for training), "syntax" nouns, then adjectives, then verbs. See `oneclip.text.clip.reduction`.

    Raises:
        ConfigError: if an argument is invalid.
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
                f"additional_special_tokens is {additional_special_tokens!r}; expected a list of tokens"
            )
        self.context_length = None if context_length is None else check_context_length(context_length)
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
        """Tokenize texts for a text tower.

        Args:
            texts: one text, or N texts.
            context_length: L; None for that of the tokenizer.
            overflow: treatment of texts with more than L tokens: "truncate" keeps the first L - 1 and the end, or the
                selection of `reduction_mask`; "error" raises.

        Returns:
            (N, L) int64 on the CPU: start of text, the text, end of text, zeros.

        Raises:
            TextTypeError: naming the first text that is not a string.
            TextTooLongError: naming the first text that is too long, when `overflow` is "error".
            ConfigError: if L is unknown or less than 2, or `overflow` has another value.
        """
        import torch

        return torch.from_numpy(self.token_ids(texts, context_length, overflow=overflow))  # type: ignore[return-value]

    def token_ids(
        self,
        texts: str | Iterable[str],
        context_length: int | None = None,
        *,
        overflow: Literal["truncate", "error"] = "truncate",
    ) -> NDArray[np.int64]:
        """Tokenize texts without torch; arguments, result and errors as of a call, as an array."""
        length = self._length(context_length)
        check_overflow(overflow)
        texts = as_text_list(texts)
        if self.reduction_fn is not None and overflow == "truncate":
            reduced = self.reduction_fn(texts, length, self.sot_token_id, self.eot_token_id, self.encode)
            return reduced.numpy()
        ids, counts = self._encode_flat(texts)
        if overflow == "error":
            check_lengths(texts, counts + 2, length)
        return pack_rows(ids, counts, length, [self.sot_token_id], [self.eot_token_id], self.pad_token_id)

    def encode(self, text: str) -> list[int]:
        """Return all ids of one text, without start and end of text.

        Raises:
            TextTypeError: if it is not a string.
        """
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """Return all ids of each text, without start and end of text.

        Raises:
            TextTypeError: naming the first text that is not a string.
        """
        ids, counts = self._encode_flat(as_text_list(texts))
        flat, ends = ids.tolist(), np.cumsum(counts).tolist()
        return [flat[end - count : end] for end, count in zip(ends, counts.tolist(), strict=True)]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids, with a space after each word and with special tokens. Padding decodes to "!" (id 0).

        Args:
            ids: (L,) integers; a tensor, an array or a list.

        Raises:
            TokenRangeError: naming the first id outside the vocabulary.
            ShapeError: if the ids are not one sequence of integers.
        """
        values = as_id_list(ids)
        check_token_range(values, self.vocab_size)
        return self.vocabulary.decode(values)

    def _length(self, context_length: int | None) -> int:
        if context_length is not None:
            return check_context_length(context_length)
        if self.context_length is None:
            raise ConfigError("this tokenizer has no context length; pass context_length")
        return self.context_length

    def _encode_flat(self, texts: list[str]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return the ids of all texts, concatenated, and the number of ids of each (N,)."""
        return self.vocabulary.encode_texts(list(map(self.clean_fn, texts)))
