"""Captions to batches of token ids of like length, those that begin alike side by side.

A short caption beside a long one would cost as much; and beginnings that a batch has in common are computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

SLAB = 64  # captions are sorted among so many batches at a time, so that their ids never fill the memory


def by_length(
    captions: Sequence[str], tokenize: Callable[[Sequence[str]], Tensor], batch_size: int, pad_id: int = 0
) -> Iterator[tuple[list[int], Tensor]]:
    """Tokenize captions and sort them by length, and those of one length by their tokens.

    Args:
        captions: N of them.
        tokenize: n captions to (n, L) ids.
        batch_size: how many captions a batch has at most.
        pad_id: what follows a caption's last token.

    Yields:
        where in `captions` the captions of a batch stand, and their ids (B, L).
    """
    for start in range(0, len(captions), batch_size * SLAB):
        ids = tokenize(captions[start : start + batch_size * SLAB])
        positions = torch.arange(1, ids.shape[1] + 1)
        lengths = ((ids != pad_id) * positions).amax(dim=1)
        order = torch.from_numpy(np.lexsort([*ids.numpy().T[::-1], lengths.numpy()]))
        for rows in torch.split(order, batch_size):
            yield (start + rows).tolist(), ids[rows]
