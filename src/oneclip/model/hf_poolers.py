"""Poolers of Hugging Face text towers: from tokens to one vector for each text.

A pooler is called with the model's output, whose `last_hidden_state` is (B, L, C), and with the attention mask
(B, L), 1 at real tokens and 0 at padding.

Shapes: B batch, L tokens, C width.
"""

import re
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

POOLERS: dict[str, type[nn.Module]] = {}
"""Poolers by their names in configurations: `mean_pooler`, `max_pooler`, `cls_pooler`, …"""

Pooler = TypeVar("Pooler", bound=type[nn.Module])


def camel_to_snake(s: str) -> str:
    """Convert `MyPooler` to `my_pooler`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", s).lower()


def register_pooler(cls: Pooler) -> Pooler:
    """Register a class for configurations: `MyPooler` becomes `my_pooler`. Use it as a decorator."""
    POOLERS[camel_to_snake(cls.__name__)] = cls
    return cls


@register_pooler
class MeanPooler(nn.Module):
    """Mean over real tokens."""

    def forward(self, x: Any, attention_mask: Tensor) -> Tensor:
        """(B, L, C) -> (B, C)."""
        tokens: Tensor = x.last_hidden_state
        return (tokens * attention_mask.unsqueeze(-1)).sum(dim=1) / attention_mask.sum(dim=-1, keepdim=True)


@register_pooler
class MaxPooler(nn.Module):
    """Maximum of each channel over real tokens; padding is ignored."""

    def forward(self, x: Any, attention_mask: Tensor) -> Tensor:
        """(B, L, C) -> (B, C)."""
        tokens: Tensor = x.last_hidden_state
        return tokens.masked_fill(attention_mask.unsqueeze(-1) == 0, -torch.inf).amax(dim=1)


@register_pooler
class ClsPooler(nn.Module):
    """Output of the model's own pooling layer for the first token; without that layer, the first token itself.

    Args:
        use_pooler_output: False always takes the first token.
    """

    def __init__(self, use_pooler_output: bool = True) -> None:
        super().__init__()
        self.cls_token_position = 0
        self.use_pooler_output = use_pooler_output

    def forward(self, x: Any, attention_mask: Tensor) -> Tensor:
        """(B, L, C) -> (B, C)."""
        pooled: Tensor | None = getattr(x, "pooler_output", None)
        if self.use_pooler_output and pooled is not None:
            return pooled
        return x.last_hidden_state[:, self.cls_token_position]


@register_pooler
class ClsLastHiddenStatePooler(nn.Module):
    """First token of the last block's output."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token_position = 0

    def forward(self, x: Any, attention_mask: Tensor) -> Tensor:
        """(B, L, C) -> (B, C)."""
        return x.last_hidden_state[:, self.cls_token_position]
