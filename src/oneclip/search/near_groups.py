"""Group images that look alike: cosine of the embeddings and perceptual hash together.

Photographs of one burst look alike to CLIP, and simple images have similar hashes; two images look alike if both agree.
Images are visited best first. One that looks like none of the leaders before it becomes a leader; every other image
joins the leader that it resembles most. So each image of a group looks like the first: there are no chains in which
the ends have nothing in common.

Shapes: N images, D joint embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

NEAR = 0.96  # least cosine of images that look alike
MAX_DISTANCE = 10  # most bits in which their hashes differ
NEAR_BLANK = 0.999  # least cosine of images without structure, whose hashes say nothing
BLOCK = 1_024  # images that are compared at once with all leaders
LEADERS_AT_ONCE = 2_048
CONFIRMED = 20  # leaders that are confirmed for one image at most, the most similar first
ROWS_AT_ONCE = 64  # whose hashes are compared at once; the differences stay in the cache of the processor

_BITS = 2**64 - 1
_STRUCTURE = 2**63 - 1  # all bits but that of the mean brightness
Vectors = Callable[["NDArray[np.int64]"], "NDArray[np.float32]"]


def looks_alike(cosine: float, hash_a: int, hash_b: int, near: float = NEAR) -> bool:
    """Return whether two images look alike.

    Args:
        cosine: of their embeddings.
        hash_a: perceptual hash of one, see `image_facts.perceptual_hash`.
        hash_b: of the other.
        near: least cosine.
    """
    if (hash_a | hash_b) & _STRUCTURE == 0:
        near = max(near, NEAR_BLANK)
    return cosine >= near and ((hash_a ^ hash_b) & _BITS).bit_count() <= MAX_DISTANCE


class Leaders(NamedTuple):
    """Leader of each image.

    Attributes:
        numbers: (N,) int64 number of the leader of each image; leaders lead themselves.
        cosines: (N,) float32 cosine with the leader.
    """

    numbers: NDArray[np.int64]
    cosines: NDArray[np.float32]


def find_leaders(
    hashes: NDArray[np.int64],
    vectors: Vectors,
    near: float = NEAR,
    report: Callable[[int], None] = lambda count: None,
    *,
    distance: int = MAX_DISTANCE,
    confirm: Callable[[int, int], bool] | None = None,
) -> Leaders:
    """Find the leader of each image. Every pair of an image and a leader is compared, so nothing is missed.

    Args:
        hashes: (N,) perceptual hashes of images, the best first.
        vectors: returns the embeddings (M, D) float32 of unit length of images by number (M,).
        near: least cosine of images that look alike.
        report: called with the number of images that were just compared.
        distance: most bits in which their hashes differ.
        confirm: called with a leader and an image that look alike; returns whether the image may join.
    """
    count = len(hashes)
    numbers, cosines = np.arange(count, dtype=np.int64), np.ones(count, np.float32)
    leaders = np.empty(0, np.int64)
    pairs = _NearPairs(hashes, vectors, near, distance)
    with ThreadPoolExecutor(2) as threads:
        for start in range(0, count, BLOCK):
            block = np.arange(start, min(start + BLOCK, count), dtype=np.int64)
            parts = [leaders[i : i + LEADERS_AT_ONCE] for i in range(0, len(leaders), LEADERS_AT_ONCE)]
            found = list(threads.map(lambda part, block=block: pairs.find(block, part), parts))
            _join(numbers, cosines, block, [*found, pairs.find(block, block)], confirm)
            leaders = np.concatenate([leaders, block[numbers[block] == block]])
            report(len(block))
    return Leaders(numbers, cosines)


def _join(
    numbers: NDArray[np.int64],
    cosines: NDArray[np.float32],
    block: NDArray[np.int64],
    found: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]],
    confirm: Callable[[int, int], bool] | None,
) -> None:
    """Let each image of a block join the leader that it resembles most, or lead."""
    images, others, values = (np.concatenate(columns) for columns in zip(*found, strict=True))
    order = np.lexsort((others, -values, images))
    images, others, values = images[order], others[order], values[order]
    ends = np.searchsorted(images, block, side="right")
    begin = 0
    for image, end in zip(block.tolist(), ends.tolist(), strict=True):
        places = begin + np.flatnonzero(numbers[others[begin:end]] == others[begin:end])  # of leaders
        for place in places[:CONFIRMED].tolist():
            if confirm is None or confirm(int(others[place]), image):
                numbers[image], cosines[image] = others[place], values[place]
                break
        begin = end


class _NearPairs:
    """Finds the pairs of images that look alike."""

    def __init__(self, hashes: NDArray[np.int64], vectors: Vectors, near: float, distance: int) -> None:
        self._hashes = hashes.view(np.uint64)
        self._is_blank = (hashes & _STRUCTURE) == 0
        self._vectors, self._near, self._distance = vectors, near, distance

    def find(
        self, images: NDArray[np.int64], others: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """Return the pairs of one of `images` and an earlier one of `others`: both numbers, and the cosine."""
        a, b = _near_hashes(self._hashes[images], self._hashes[others], self._distance)
        is_earlier = others[b] < images[a]
        a, b = a[is_earlier], b[is_earlier]
        if not len(a):
            return images[:0], others[:0], np.empty(0, np.float32)
        # the pairs have few images in common with each other, or nearly all: a product of those costs little either way
        (first, first_places), (second, second_places) = (np.unique(x, return_inverse=True) for x in (a, b))
        products = self._vectors(images[first]) @ self._vectors(others[second]).T
        values = np.minimum(products[first_places, second_places], 1).astype(np.float32)
        a, b = images[a], others[b]
        both_blank = self._is_blank[a] & self._is_blank[b]
        is_near = values >= np.where(both_blank, max(self._near, NEAR_BLANK), self._near)
        return a[is_near], b[is_near], values[is_near]


def _near_hashes(
    a: NDArray[np.uint64], b: NDArray[np.uint64], distance: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the places in a and b of hashes that differ in at most `distance` bits."""
    found = [np.empty(0, np.int64)]
    differences, counts = (np.empty((ROWS_AT_ONCE, len(b)), dtype) for dtype in (np.uint64, np.uint8))
    for start in range(0, len(a), ROWS_AT_ONCE):
        rows = a[start : start + ROWS_AT_ONCE, None]
        differing = np.bitwise_xor(rows, b, out=differences[: len(rows)])
        is_near = _count_bits(differing, out=counts[: len(rows)]) <= distance
        found.append(start * len(b) + np.flatnonzero(is_near))
    first, second = np.divmod(np.concatenate(found), max(len(b), 1))
    return first, second


if hasattr(np, "bitwise_count"):  # NumPy 2
    _count_bits: Callable[..., NDArray[np.uint8]] = np.bitwise_count
else:
    _COUNTS = np.array([i.bit_count() for i in range(2**16)], np.uint8)

    def _count_bits(values: NDArray[np.uint64], out: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return _COUNTS[values.view(np.uint16)].reshape(*values.shape, 4).sum(-1, dtype=np.uint8, out=out)
