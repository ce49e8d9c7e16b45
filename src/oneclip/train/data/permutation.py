"""A place in an epoch to a number, by a keyed permutation that is computed, not stored.

Eight rounds of a balanced Feistel network (Luby and Rackoff 1988) permute the numbers of 2h bits; what falls outside
[0, size) is sent through again until it falls inside ("cycle walking", Black and Rogaway 2002). A billion samples
cost no memory, and any place of any epoch is found at once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]

_ROUNDS = 8
_U = np.uint64


class Permutation:
    """A permutation of [0, size) by a key.

    Args:
        size: at least 1.
        key: whole numbers, none negative; other keys give other permutations.
    """

    def __init__(self, size: int, key: tuple[int, ...]) -> None:
        self.size = size
        self._half = _U(max(2, ((size - 1).bit_length() + 1) // 2))  # bits of each half
        self._mask = (_U(1) << self._half) - _U(1)
        self._keys = np.random.SeedSequence(key).generate_state(_ROUNDS, np.uint64)

    def __call__(self, places: Numbers) -> Numbers:
        """The numbers at these places, int64 of any shape."""
        found = self._rounds(places.astype(np.uint64))
        while (outside := found >= self.size).any():
            found[outside] = self._rounds(found[outside])
        return found.astype(np.int64)

    def _rounds(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = values >> self._half, values & self._mask
        for key in self._keys:
            left, right = right, left ^ (_scramble(right ^ key) & self._mask)
        return left << self._half | right


def _scramble(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014): each bit of the input changes half of the output's."""
    values = (values ^ (values >> _U(30))) * _U(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> _U(27))) * _U(0x94D049BB133111EB)
    return values ^ (values >> _U(31))
