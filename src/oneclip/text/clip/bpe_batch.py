"""Encode many cleaned texts at once, with a cache of words.

Texts rarely repeat, but their words do. The cache stores each word as the bytes of its ids, so that a batch costs one
dictionary lookup per word and one join.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

MAX_CACHED_WORDS = 65_536  # about 13 MB
MAX_CACHED_LENGTH = 64  # characters; longer words rarely repeat

_END = "\n"  # between texts; whitespace is never part of a word
_END_ID = -1

Ids = NDArray[np.int32]


class WordCache:
    """Encoder of texts that remembers the ids of words. Safe to share between threads.

    Args:
        encode: returns the ids of one word.
    """

    def __init__(self, encode: Callable[[str], list[int]]) -> None:
        self._encode = encode
        self._known: dict[str, bytes] = {}

    def __call__(self, texts: Sequence[str]) -> tuple[Ids, NDArray[np.intp]]:
        """Encode texts.

        Args:
            texts: N cleaned texts: words with one space between them.

        Returns:
            The ids of all texts, concatenated, and the number of ids of each text (N,).
        """
        if not texts:
            return np.empty(0, np.int32), np.empty(0, np.intp)
        words = f" {_END} ".join(texts).split(" ")
        words.append(_END)
        ids = np.frombuffer(self._pack_words(words), np.int32)
        ends = np.flatnonzero(ids == _END_ID)
        return ids[ids != _END_ID], np.diff(ends, prepend=-1) - 1

    def _pack_words(self, words: list[str]) -> bytes:
        """Return the ids of words, concatenated, as bytes."""
        try:
            return b"".join(map(self._known.__getitem__, words))
        except KeyError:  # some words are new
            return b"".join(map(self._learn(set(words)).__getitem__, words))

    def _learn(self, words: set[str]) -> dict[str, bytes]:
        """Encode the new words, add them to the cache, and return the bytes of all words."""
        known = {word: packed for word in words if (packed := self._known.get(word)) is not None}
        fresh = {word: self._pack(word) for word in words if word not in known}
        if len(self._known) + len(fresh) > MAX_CACHED_WORDS:
            self._known.clear()  # common words come back at once
        short = (word for word in fresh if len(word) <= MAX_CACHED_LENGTH)
        self._known.update((word, fresh[word]) for word in islice(short, MAX_CACHED_WORDS))
        return known | fresh

    def _pack(self, word: str) -> bytes:
        return array("i", [_END_ID] if word == _END else self._encode(word)).tobytes()
