"""Sort texts into batches of similar length, with equal prefixes next to each other.

In a batch of mixed lengths, a short text costs as much as the longest one. A prefix that a batch shares is computed
once.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Ids = TypeVar("Ids", "Tensor", NDArray[np.int64])

SORT_WINDOW = 64  # batches that are sorted together; this bounds the memory of their ids


def bucket_by_length(
    texts: Sequence[str], tokenize: Callable[[Sequence[str]], Ids], batch_size: int, pad_id: int = 0
) -> Generator[tuple[list[int], Ids], None, None]:
    """Tokenize texts and sort them by length, and within one length by their tokens.

    Args:
        texts: N texts.
        tokenize: converts n texts to (n, L) ids, a tensor or an array.
        batch_size: largest number of texts in a batch.
        pad_id: id after the last token of a text.

    Yields:
        The positions of the texts of a batch in `texts`, and their ids (B, L), of the type that `tokenize` returns.
    """
    for start in range(0, len(texts), batch_size * SORT_WINDOW):
        ids = tokenize(texts[start : start + batch_size * SORT_WINDOW])
        table: NDArray[np.int64] = np.asarray(ids)
        lengths = ((table != pad_id) * np.arange(1, table.shape[1] + 1)).max(axis=1)
        order = np.lexsort([*table.T[::-1], lengths])
        for first in range(0, len(order), batch_size):
            rows = order[first : first + batch_size]
            yield (start + rows).tolist(), ids[rows]
