"""Logits of the next token to logits in which some tokens are left out or made less likely.

Shapes: R rows, one a caption being written, T tokens, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def without(logits: Tensor, ids: Sequence[int]) -> Tensor:
    """Leave tokens out: their logits (R, V) become minus infinity."""
    return logits.index_fill(1, torch.tensor(list(ids), device=logits.device), float("-inf"))


def penalise_repetition(logits: Tensor, ids: Tensor, penalty: float) -> Tensor:
    """Divide positive and multiply negative logits (R, V) of the tokens in `ids` (R, T) (Keskar et al. 2019, CTRL)."""
    if penalty == 1.0:
        return logits
    chosen = logits.gather(1, ids)
    return logits.scatter(1, ids, torch.where(chosen < 0, chosen * penalty, chosen / penalty))


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Leave out all but the k likeliest tokens, and those as likely as the last of them (Fan et al. 2018)."""
    least = logits.topk(min(k, logits.shape[1]), dim=1).values[:, -1:]
    return logits.masked_fill(logits < least, float("-inf"))


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Leave out all but the fewest tokens that together have probability p (Holtzman et al. 2019)."""
    ascending, order = logits.sort(dim=1)
    unlikely = ascending.softmax(dim=1).cumsum(dim=1) <= 1 - p
    unlikely[:, -1] = False
    return logits.masked_fill(torch.zeros_like(unlikely).scatter(1, order, unlikely), float("-inf"))
