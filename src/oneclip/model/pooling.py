"""Which of a caption's tokens stands for all of it.

Shapes: B batch, L tokens, C width.
"""

import torch
from torch import Tensor

POOL_TYPES = ("argmax", "eos", "first", "last", "none")


def pool_text(x: Tensor, text: Tensor, pool_type: str, eos_id: int) -> Tensor:
    """Choose each caption's token: (B, L, C) to (B, C), or all of them (B, L, C) when `pool_type` is "none".

    Args:
        x: (B, L, C) tokens.
        text: (B, L) the ids they came from.
        pool_type: "argmax" the greatest id (CLIP's end of text), "eos" the first `eos_id`, "first", "last" or "none".
        eos_id: the end-of-text id that "eos" looks for; a caption without one is pooled at its first token.
    """
    if pool_type == "first":
        return x[:, 0]
    if pool_type == "last":
        return x[:, -1]
    if pool_type == "none":
        return x
    positions = pooled_positions(text, pool_type, eos_id)
    return x[torch.arange(x.shape[0], device=x.device), positions]


def pooled_positions(text: Tensor, pool_type: str, eos_id: int) -> Tensor:
    """(B, L) ids to (B,) positions of the tokens that "argmax" or "eos" pooling chooses."""
    if pool_type == "eos":
        return (text == eos_id).int().argmax(dim=-1)
    return text.argmax(dim=-1)
