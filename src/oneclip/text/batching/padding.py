"""Arrange token ids in rows of one length, with special tokens and padding; check arguments of tokenizers.

Shapes: N texts, L length of a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from oneclip.errors import ConfigError, ShapeError, TextTooLongError, TextTypeError, TokenRangeError

Side = Literal["left", "right"]
Counts = NDArray[np.integer[Any]]

MAX_CONTEXT_LENGTH = 2**20  # a larger number is a mistake


def pack_rows(
    ids: NDArray[np.integer[Any]],
    counts: Counts,
    length: int,
    before: Sequence[int],
    after: Sequence[int],
    pad_id: int,
    padding_side: Side = "right",
    truncation_side: Side = "right",
) -> NDArray[np.int64]:
    """Arrange texts in rows: the ids before, as many ids of the text as fit, the ids after, padding.

    Args:
        ids: ids of all texts, concatenated.
        counts: (N,) number of ids of each text.
        length: L, at least as long as `before` and `after` together.
        before, after: special ids around each text.
        pad_id: id that fills the rest.
        padding_side: side of the padding.
        truncation_side: side on which a text that is too long is cut.

    Returns:
        (N, L) int64.
    """
    rows = np.full((len(counts), length), pad_id, dtype=np.int64)
    fits = np.minimum(counts, length - len(before) - len(after))
    begins = len(before) + (length - len(before) - len(after) - fits if padding_side == "left" else 0 * fits)
    row = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(len(ids)) - np.repeat(np.cumsum(counts) - counts, counts)
    if truncation_side == "left":
        place -= np.repeat(counts - fits, counts)
    kept = (place >= 0) & (place < fits[row])
    rows[row[kept], (begins[row] + place)[kept]] = ids[kept]
    every = np.arange(len(counts))
    for i, special in enumerate(before):
        rows[every, begins - len(before) + i] = special
    for i, special in enumerate(after):
        rows[every, begins + fits + i] = special
    return rows


def check_context_length(length: int, special_count: int = 2) -> int:
    """Check that a row has room for the special ids around a text, and return its length.

    Raises:
        ConfigError: if the length is not an integer, too small or too large.
    """
    if not hasattr(length, "__index__") or length < max(special_count, 1):
        reason = "start and end" if special_count == 2 else f"{special_count} special tokens around a text"
        raise ConfigError(
            f"context_length must be an integer of at least {max(special_count, 1)} ({reason}), not {length!r}"
        )
    if length > MAX_CONTEXT_LENGTH:
        raise ConfigError(f"context_length is {length:,}; expected at most {MAX_CONTEXT_LENGTH:,}")
    return int(length)


def check_overflow(overflow: str) -> None:
    """Raise ConfigError unless this is "truncate" or "error"."""
    if overflow not in ("truncate", "error"):
        raise ConfigError(f"overflow must be 'truncate' or 'error', not {overflow!r}")


def as_text_list(texts: str | Iterable[str]) -> list[str]:
    """Return one or several texts as a list of strings.

    Raises:
        TextTypeError: naming the first item that is not a string.
    """
    if isinstance(texts, str):
        return [texts]
    if isinstance(texts, (bytes, bytearray)) or not isinstance(texts, Iterable):
        raise TextTypeError(f"a text must be a string, not {_describe(texts)}")
    texts = list(texts)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TextTypeError(f"text {index} is not a string but {_describe(text)}")
    return texts


def as_id_list(ids: Iterable[int]) -> list[int]:
    """Convert one row of ids, a tensor, an array or a list, to a list.

    Raises:
        ShapeError: if it is not one sequence of integers.
    """
    values = ids.tolist() if hasattr(ids, "tolist") else list(ids)
    if not isinstance(values, list) or any(not hasattr(value, "__index__") for value in values):
        raise ShapeError("decode takes one sequence of integer ids; decode the rows of a batch one by one")
    return [int(value) for value in values]


def check_token_range(ids: Sequence[int], vocab_size: int) -> None:
    """Raise TokenRangeError for the first id that is not in the vocabulary."""
    for position, token_id in enumerate(ids):
        if not 0 <= token_id < vocab_size:
            raise TokenRangeError(
                f"token id {token_id} at position {position} is outside the vocabulary, 0 to {vocab_size - 1}"
            )


def check_lengths(texts: Sequence[str], counts: Counts, length: int) -> None:
    """Check that every text fits into a row.

    Args:
        texts: N texts.
        counts: (N,) number of tokens of each, including special tokens.
        length: number of tokens that fit.

    Raises:
        TextTooLongError: naming the first text that does not fit.
    """
    too_long = np.flatnonzero(counts > length)
    if len(too_long):
        index = int(too_long[0])
        text = texts[index] if len(texts[index]) <= 200 else texts[index][:199] + "…"
        others = f" (and {len(too_long) - 1} others)" if len(too_long) > 1 else ""
        raise TextTooLongError(
            f"text {index}{others} has {counts[index]} tokens with start and end, more than the "
            f"{length} that fit: {text!r}; shorten it or allow truncation"
        )


def _describe(value: object) -> str:
    hint = "; decode it first" if isinstance(value, (bytes, bytearray)) else ""
    return f"{type(value).__name__} ({repr(value)[:80]}){hint}"
