"""What a Hugging Face text model gives to one vector a caption.

A pooler is called with the model's output, whose `last_hidden_state` is (B, L, C), and with the attention mask
(B, L), 1 at real tokens and 0 at padding.

Shapes: B batch, L tokens, C width.
"""

import re
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

POOLERS: dict[str, type[nn.Module]] = {}
"""By the names that configurations use: `mean_pooler`, `max_pooler`, `cls_pooler`, …"""

Pooler = TypeVar("Pooler", bound=type[nn.Module])


def camel_to_snake(s: str) -> str:
    """`MyPooler` to `my_pooler`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", s).lower()


def register_pooler(cls: Pooler) -> Pooler:
    """Let configurations name a class: `MyPooler` becomes `my_pooler`. Gives the class back, as decorators do."""
    POOLERS[camel_to_snake(cls.__name__)] = cls
    return cls


@register_pooler
class MeanPooler(nn.Module):
    """The mean over real tokens."""

    def forward(self, x: Any, attention_mask: Tensor) -> Tensor:
        """(B, L, C) -> (B, C)."""
        tokens: Tensor = x.last_hidden_state
        return (tokens * attention_mask.unsqueeze(-1)).sum(dim=1) / attention_mask.sum(dim=-1, keepdim=True)


@register_pooler
class MaxPooler(nn.Module):
    """The maximum of each channel over real tokens; padding never counts, however great its numbers."""

    def forward(self, x: Any, attention_mask: Tensor) -> Tensor:
        """(B, L, C) -> (B, C)."""
        tokens: Tensor = x.last_hidden_state
        return tokens.masked_fill(attention_mask.unsqueeze(-1) == 0, -torch.inf).amax(dim=1)


@register_pooler
class ClsPooler(nn.Module):
    """What the model's own pooling layer makes of the first token; the first token itself where there is none.

    Args:
        use_pooler_output: False takes the first token in any case.
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
        first: Tensor = x.last_hidden_state[:, self.cls_token_position]
        return first


@register_pooler
class ClsLastHiddenStatePooler(nn.Module):
    """The first token as the last block leaves it."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token_position = 0

    def forward(self, x: Any, attention_mask: Tensor) -> Tensor:
        """(B, L, C) -> (B, C)."""
        first: Tensor = x.last_hidden_state[:, self.cls_token_position]
        return first
