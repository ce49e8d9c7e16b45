"""Cleaned captions to ids, many at once.

Captions hardly ever come twice, but their words do: a batch of thousands is mostly words seen before. Each is
therefore remembered as the bytes of its ids, and a batch becomes one dictionary look-up a word and one join.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

MEMORY_WORDS = 65_536  # about 13 MB
MEMORY_LENGTH = 64  # characters; longer words come once

_END = "\n"  # between captions; whitespace, so never part of a word
_END_ID = -1

Ids = NDArray[np.int32]


class WordMemory:
    """Captions to ids, by way of their words. Safe to share between threads.

    Args:
        encode: one word to its ids.
    """

    def __init__(self, encode: Callable[[str], list[int]]) -> None:
        self._encode = encode
        self._known: dict[str, bytes] = {}

    def __call__(self, captions: Sequence[str]) -> tuple[Ids, NDArray[np.intp]]:
        """Encode captions.

        Args:
            captions: N cleaned captions: words with one space between them.

        Returns:
            The ids of all captions in a row, and how many of them each caption has (N,).
        """
        if not captions:
            return np.empty(0, np.int32), np.empty(0, np.intp)
        words = f" {_END} ".join(captions).split(" ")
        words.append(_END)
        ids = np.frombuffer(self._packed(words), np.int32)
        ends = np.flatnonzero(ids == _END_ID)
        return ids[ids != _END_ID], np.diff(ends, prepend=-1) - 1

    def _packed(self, words: list[str]) -> bytes:
        """The ids of words in a row, as bytes."""
        try:
            return b"".join(map(self._known.__getitem__, words))
        except KeyError:  # there are new ones
            return b"".join(map(self._learn(set(words)).__getitem__, words))

    def _learn(self, words: set[str]) -> dict[str, bytes]:
        """The ids of each word as bytes; the new ones are remembered from now on."""
        known = {word: packed for word in words if (packed := self._known.get(word)) is not None}
        fresh = {word: self._pack(word) for word in words if word not in known}
        if len(self._known) + len(fresh) > MEMORY_WORDS:
            self._known.clear()  # what is common comes back at once
        short = (word for word in fresh if len(word) <= MEMORY_LENGTH)
        self._known.update((word, fresh[word]) for word in islice(short, MEMORY_WORDS))
        return known | fresh

    def _pack(self, word: str) -> bytes:
        return array("i", [_END_ID] if word == _END else self._encode(word)).tobytes()
