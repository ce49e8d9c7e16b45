"""Ids of captions to rows of one length, with what stands around a caption, and padding.

Shapes: N captions, L the length of a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from oneclip.errors import ConfigError, ShapeError, TextTooLongError, TextTypeError

Side = Literal["left", "right"]
Counts = NDArray[np.integer[Any]]


def pack(
    ids: NDArray[np.integer[Any]],
    counts: Counts,
    length: int,
    before: Sequence[int],
    after: Sequence[int],
    pad_id: int,
    padding_side: Side = "right",
    truncation_side: Side = "right",
) -> NDArray[np.int64]:
    """Put captions into rows: what stands before, as much of the caption as fits, what stands after, padding.

    Args:
        ids: of all captions in a row.
        counts: (N,) how many of them each caption has.
        length: L, at least as long as `before` and `after` together.
        before, after: the ids around each caption.
        pad_id: what fills the rest.
        padding_side: where the padding goes.
        truncation_side: which end of a caption that is too long goes.

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


LONGEST = 2**20  # tokens in a row; more is no caption, but a number that went wrong


def checked_length(length: int, around: int = 2) -> int:
    """A context length that has room for the ids around a caption.

    Raises:
        ConfigError: if it has not.
    """
    if not hasattr(length, "__index__") or length < max(around, 1):
        what = "start and end" if around == 2 else f"{around} of them stand around a caption"
        raise ConfigError(
            f"a context length is an integer of at least {max(around, 1)} ({what}), not {length!r}"
        )
    if length > LONGEST:
        raise ConfigError(
            f"a context length of {length:,} is longer than any caption; up to {LONGEST:,} can be"
        )
    return int(length)


def check_overflow(overflow: str) -> None:
    if overflow not in ("truncate", "error"):
        raise ConfigError(f"overflow is 'truncate' or 'error', not {overflow!r}")


def as_list(texts: str | Iterable[str]) -> list[str]:
    """Captions as a list, every one a string.

    Raises:
        TextTypeError: naming the first that is none.
    """
    if isinstance(texts, str):
        return [texts]
    if isinstance(texts, (bytes, bytearray)) or not isinstance(texts, Iterable):
        raise TextTypeError(f"a caption is a string, not {_described(texts)}")
    texts = list(texts)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TextTypeError(f"text {index} is not a string but {_described(text)}")
    return texts


def one_sequence(ids: Iterable[int]) -> list[int]:
    """Ids that came as a tensor, an array or a list.

    Raises:
        ShapeError: if this is not one sequence of integers.
    """
    values = ids.tolist() if hasattr(ids, "tolist") else list(ids)
    if not isinstance(values, list) or any(not hasattr(value, "__index__") for value in values):
        raise ShapeError("decode takes one sequence of integer ids; decode the rows of a batch one by one")
    return [int(value) for value in values]


def check_fits(texts: Sequence[str], counts: Counts, length: int) -> None:
    """Refuse captions of more tokens than a row holds; the first one is named.

    Args:
        texts: N captions.
        counts: (N,) how many tokens each has, with what stands around it.
        length: how many fit.

    Raises:
        TextTooLongError: if one does not fit.
    """
    too_long = np.flatnonzero(counts > length)
    if len(too_long):
        index = int(too_long[0])
        text = texts[index] if len(texts[index]) <= 200 else texts[index][:199] + "…"
        others = f" (and {len(too_long) - 1} others)" if len(too_long) > 1 else ""
        raise TextTooLongError(
            f"text {index}{others} has {counts[index]} tokens with start and end, more than the "
            f"{length} that fit: {text!r}; shorten it, or allow truncation"
        )


def _described(value: object) -> str:
    """The type and the beginning of a value, and the remedy where there is one."""
    hint = "; decode it first" if isinstance(value, (bytes, bytearray)) else ""
    return f"{type(value).__name__} ({repr(value)[:80]}){hint}"
