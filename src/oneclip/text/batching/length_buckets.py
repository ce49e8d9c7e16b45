"""Sort texts into batches of similar length, with equal prefixes next to each other.

In a batch of mixed lengths, a short text costs as much as the longest one. A prefix that a batch shares is computed
once.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

import numpy as np
import torch
from torch import Tensor

SORT_WINDOW = 64  # batches that are sorted together; this bounds the memory of their ids


def bucket_by_length(
    texts: Sequence[str], tokenize: Callable[[Sequence[str]], Tensor], batch_size: int, pad_id: int = 0
) -> Generator[tuple[list[int], Tensor], None, None]:
    """Tokenize texts and sort them by length, and within one length by their tokens.

    Args:
        texts: N texts.
        tokenize: converts n texts to (n, L) ids.
        batch_size: largest number of texts in a batch.
        pad_id: id after the last token of a text.

    Yields:
        The positions of the texts of a batch in `texts`, and their ids (B, L).
    """
    for start in range(0, len(texts), batch_size * SORT_WINDOW):
        ids = tokenize(texts[start : start + batch_size * SORT_WINDOW])
        positions = torch.arange(1, ids.shape[1] + 1)
        lengths = ((ids != pad_id) * positions).amax(dim=1)
        order = torch.from_numpy(np.lexsort([*ids.numpy().T[::-1], lengths.numpy()]))
        for rows in torch.split(order, batch_size):
            yield (start + rows).tolist(), ids[rows]
