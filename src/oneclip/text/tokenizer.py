"""Captions to rows of token ids, and ids back to text.

Shapes: N captions, L the context length.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from oneclip.config import CLIPTextCfg
from oneclip.errors import ConfigError, ShapeError, TextTooLongError, TextTypeError, TokenRangeError
from oneclip.text.clean import get_clean_fn
from oneclip.text.vocabulary import default_bpe, vocabulary

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
    ) -> None:
        self.context_length = None if context_length is None else _checked_length(context_length)
        self.clean_fn = get_clean_fn(clean)
        path = None if merges is None or fspath(merges) == default_bpe() else fspath(merges)
        self.vocabulary = vocabulary(path, (*special_tokens, *additional_special_tokens))
        self.vocab_size = len(self.vocabulary)
        self.all_special_ids = list(self.vocabulary.special_ids.values())
        self.sot_token_id, self.eot_token_id = self.all_special_ids[:2]

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
            overflow: what to do with more than L tokens; "truncate" keeps the first L - 1 and the end.

        Returns:
            (N, L) int64 on the CPU: start of text, the caption, end of text, zeros.

        Raises:
            TextTypeError: naming the first text that is not a string.
            TextTooLongError: naming the first text that is too long, when `overflow` is "error".
            ConfigError: if L is unknown or less than 2, or `overflow` is neither of the two.
        """
        import torch

        length = self._length(context_length)
        if overflow not in ("truncate", "error"):
            raise ConfigError(f"overflow is 'truncate' or 'error', not {overflow!r}")
        texts = _as_list(texts)
        ids, counts = self._flat(texts)
        if overflow == "error":
            _check_fits(texts, counts + 2, length)
        return torch.from_numpy(self._rows(ids, counts, length))  # type: ignore[return-value]

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
        ids, counts = self._flat(_as_list(texts))
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
        values = ids.tolist() if hasattr(ids, "tolist") else list(ids)
        if not isinstance(values, list) or any(not hasattr(value, "__index__") for value in values):
            raise ShapeError(
                "decode takes one sequence of integer ids; decode the rows of a batch one by one"
            )
        for place, value in enumerate(values):
            if not 0 <= value < self.vocab_size:
                raise TokenRangeError(
                    f"token id {value} at place {place} is outside the vocabulary, 0 to {self.vocab_size - 1}"
                )
        return self.vocabulary.decode(values)

    def _length(self, context_length: int | None) -> int:
        """The length of this call's rows."""
        if context_length is not None:
            return _checked_length(context_length)
        if self.context_length is None:
            raise ConfigError("this tokenizer has no context length of its own; pass context_length")
        return self.context_length

    def _flat(self, texts: list[str]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """The ids of all texts in a row, and how many each has (N,)."""
        return self.vocabulary.words(list(map(self.clean_fn, texts)))

    def _rows(
        self, ids: np.ndarray[Any, Any], counts: np.ndarray[Any, Any], length: int
    ) -> np.ndarray[Any, Any]:
        """Ids in a row to (N, L) rows with start, end and padding."""
        rows = np.zeros((len(counts), length), dtype=np.int64)
        row = np.repeat(np.arange(len(counts)), counts)
        column = np.arange(1, len(ids) + 1) - np.repeat(np.cumsum(counts) - counts, counts)
        kept = column < length - 1
        rows[row[kept], column[kept]] = ids[kept]
        rows[:, 0] = self.sot_token_id
        rows[np.arange(len(counts)), np.minimum(counts, length - 2) + 1] = self.eot_token_id
        return rows


def get_tokenizer(
    cfg: CLIPTextCfg, home: str | PathLike[str] | None = None, cache_dir: str | PathLike[str] | None = None
) -> CLIPTokenizer:
    """The tokenizer that a text tower was trained with.

    Raises:
        ConfigError: if it is not CLIP's own, or has options that CLIP's does not.
    """
    if cfg.hf_tokenizer_name is not None:
        raise ConfigError(
            f"the text tower reads the Hugging Face tokenizer {cfg.hf_tokenizer_name!r}; "
            "this version of oneclip has CLIP's own tokenizer only"
        )
    options = dict(cfg.tokenizer_kwargs or {})
    for name in options:
        if name not in ("clean", "additional_special_tokens"):
            raise ConfigError(
                f"tokenizer_kwargs has {name!r}, which this version's CLIP tokenizer lacks; "
                "it has 'clean' and 'additional_special_tokens'"
            )
    return CLIPTokenizer(cfg.context_length, **options)


def _checked_length(length: int) -> int:
    if not hasattr(length, "__index__") or length < 2:
        raise ConfigError(f"a context length is an integer of at least 2 (start and end), not {length!r}")
    return int(length)


def _as_list(texts: str | Iterable[str]) -> list[str]:
    """Captions as a list, every one a string."""
    if isinstance(texts, str):
        return [texts]
    if isinstance(texts, (bytes, bytearray)) or not isinstance(texts, Iterable):
        raise TextTypeError(f"a caption is a string, not {_described(texts)}")
    texts = list(texts)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TextTypeError(f"text {index} is not a string but {_described(text)}")
    return texts


def _described(value: object) -> str:
    """The type and the beginning of a value, and the remedy where there is one."""
    hint = "; decode it first" if isinstance(value, (bytes, bytearray)) else ""
    return f"{type(value).__name__} ({repr(value)[:80]}){hint}"


def _check_fits(texts: Sequence[str], counts: np.ndarray[Any, Any], length: int) -> None:
    """Refuse captions of more tokens than a row holds; the first one is named."""
    too_long = np.flatnonzero(counts > length)
    if len(too_long):
        index = int(too_long[0])
        text = texts[index] if len(texts[index]) <= 200 else texts[index][:199] + "…"
        others = f" (and {len(too_long) - 1} others)" if len(too_long) > 1 else ""
        raise TextTooLongError(
            f"text {index}{others} has {counts[index]} tokens with start and end, more than the "
            f"{length} that fit: {text!r}; shorten it, or allow truncation"
        )
