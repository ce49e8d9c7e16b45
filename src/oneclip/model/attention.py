"""Attention of custom blocks, attention pooling, and a fast form of torch's attention.

The blocks of published models use torch's own `nn.MultiheadAttention`; see `transformer.py`.

Shapes: B batch, L query tokens, S key tokens, C width, H heads, E = C / H.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneclip.errors import ConfigError
from oneclip.model.layers import LayerNorm, LayerNormFp32
from oneclip.model.untouched import is_plain, is_recorded, is_untouched

Norm = Callable[[int], nn.Module]


class Attention(nn.Module):
    """Multi-head self-attention with the options of a custom block.

    Args:
        dim: C.
        num_heads: H, a divisor of C.
        qkv_bias: add a bias to queries, keys and values.
        qk_norm: normalize queries and keys per head (Dehghani et al. 2023).
        scaled_cosine: cosine attention with a learned temperature per head (Liu et al. 2022, Swin V2).
        scale_heads: a learned factor per head on the output (Shleifer et al. 2021, NormFormer).
        inner_norm: normalize before the output projection (Wang et al. 2022, Foundation Transformers).
        logit_scale_max: upper bound of the logarithm of the temperature.
        norm_layer: makes a norm from a width.
        attn_drop: share of the attention weights left out in training.
        proj_drop: share of the output left out in training.

    Raises:
        ConfigError: if H does not divide C, or both `qk_norm` and `scaled_cosine` are set.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        qk_norm: bool = False,
        scaled_cosine: bool = False,
        scale_heads: bool = False,
        inner_norm: bool = False,
        logit_scale_max: float = math.log(1.0 / 0.01),
        norm_layer: Norm = LayerNormFp32,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        check_heads(dim, num_heads)
        if qk_norm and scaled_cosine:
            raise ConfigError("qk_norm and scaled_cosine_attn both rescale queries and keys: choose one")
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.scaled_cosine = scaled_cosine
        self.scale_heads = scale_heads
        self.scale = self.head_dim**-0.5
        self.logit_scale_max = logit_scale_max
        self.use_fsdpa = True  # published attribute: torch's fused attention is used

        self.in_proj_weight = nn.Parameter(torch.randn(3 * dim, dim) * self.scale)
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim)) if qkv_bias else None
        self.ln_q = norm_layer(self.head_dim) if qk_norm else nn.Identity()
        self.ln_k = norm_layer(self.head_dim) if qk_norm else nn.Identity()
        temperatures = torch.full((num_heads, 1, 1), math.log(10.0))
        self.logit_scale = nn.Parameter(temperatures) if scaled_cosine else None
        self.attn_drop = nn.Dropout(attn_drop)
        factors = torch.ones(num_heads, 1, 1)
        self.head_scale = nn.Parameter(factors) if scale_heads else None
        self.ln_inner = norm_layer(dim) if inner_norm else nn.Identity()
        self.out_proj = nn.Linear(dim, dim)
        self.out_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            x: (B, L, C).
            attn_mask: (L, L) or (B H, L, L), added to the attention logits; in a boolean mask True means no attention.

        Returns:
            (B, L, C).
        """
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        # (B, H, L, E) each
        heads = (x.shape[0], x.shape[1], 3, self.num_heads, self.head_dim)
        q, k, v = qkv.reshape(heads).permute(2, 0, 3, 1, 4).unbind(0)
        if attn_mask is not None:
            attn_mask = additive_mask(attn_mask, self.num_heads, q.dtype)
        return self.out_drop(self.out_proj(self.attend(q, k, v, attn_mask)))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """Attend by heads, from queries (B, H, L, E) to keys and values (B, H, S, E): (B, L, C), not yet projected.

        Args:
            attn_mask: added to the attention logits, broadcastable to (B, H, L, S).
        """
        mask = attn_mask.to(q.dtype) if attn_mask is not None else None
        dropout = self.attn_drop.p if self.training else 0.0
        if self.logit_scale is not None:
            scale = self.logit_scale.clamp(max=self.logit_scale_max).exp()  # (H, 1, 1), bounded as in Swin V2
            q, k = F.normalize(q, dim=-1) * scale.to(q.dtype), F.normalize(k, dim=-1)
            x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=1.0)
        else:
            q, k = self.ln_q(q), self.ln_k(k)
            x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)  # (B, H, L, E)
        if self.head_scale is not None:
            x = x * self.head_scale
        return self.ln_inner(x.transpose(1, 2).flatten(2))


class AttentionalPooler(nn.Module):
    """Pool tokens by attention from learned queries (Yu et al. 2022, CoCa, section 3.2).

    Args:
        d_model: C, width of queries and output.
        context_dim: width of the tokens.
        n_head: heads.
        n_queries: Q, number of output vectors.
        norm_layer: makes a norm from a width.
    """

    def __init__(
        self,
        d_model: int,
        context_dim: int,
        n_head: int = 8,
        n_queries: int = 256,
        norm_layer: Norm = LayerNorm,
    ) -> None:
        super().__init__()
        check_heads(d_model, n_head)
        self.query = nn.Parameter(torch.randn(n_queries, d_model))
        self.attn = nn.MultiheadAttention(
            d_model, n_head, kdim=context_dim, vdim=context_dim, batch_first=True
        )
        self.ln_q = norm_layer(d_model)
        self.ln_k = norm_layer(context_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, context_dim) -> (B, Q, C)."""
        x = self.ln_k(x)
        query = self.ln_q(self.query).to(x.dtype).unsqueeze(0).expand(x.shape[0], -1, -1)
        return self.attn(query, x, x, need_weights=False)[0]


def is_replaceable(attention: nn.Module) -> bool:
    """Return True if `self_attention` can replace a call of this module, and nobody could see the difference."""
    return (
        type(attention) is nn.MultiheadAttention
        and attention.in_proj_weight is not None
        and attention.bias_k is None
        and not attention.add_zero_attn
        and not attention.dropout
        and not is_recorded()
        and is_untouched()
        and is_plain(attention)
    )


def self_attention(attention: nn.MultiheadAttention, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """Compute `attention(x, x, x, need_weights=False, attn_mask=attn_mask)[0]`, without torch's copy of q, k and v.

    It takes 0.85 to 1.0 times as long as the module in inference, 0.91 to 0.97 in training (`benchmarks/attention.py`).
    See `is_replaceable` for when it may be used.

    Args:
        attention: a module for which `is_replaceable` is True.
        x: (B, L, C), or (L, B, C) unless it is `batch_first`.
        attn_mask: (L, L) or (B H, L, L), added to the attention logits.

    Returns:
        The shape of `x`.
    """
    batch, length = (0, 1) if attention.batch_first else (1, 0)
    qkv = F.linear(x, attention.in_proj_weight, attention.in_proj_bias)
    qkv = qkv.reshape(x.shape[0], x.shape[1], 3, attention.num_heads, attention.head_dim)
    q, k, v = qkv.permute(2, batch, 3, length, 4).unbind(0)  # (B, H, L, E) each
    mask = None if attn_mask is None else additive_mask(attn_mask, attention.num_heads, q.dtype)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    y = y.permute(0, 2, 1, 3) if attention.batch_first else y.permute(2, 0, 1, 3)
    return F.linear(y.flatten(2), attention.out_proj.weight, attention.out_proj.bias)


def check_heads(width: int, heads: int) -> None:
    """Raise ConfigError unless a width can be split into that many heads."""
    if heads < 1 or width % heads:
        raise ConfigError(f"attention of width {width} cannot be split into {heads} heads of equal width")


def additive_mask(mask: Tensor, heads: int, dtype: torch.dtype) -> Tensor:
    """Turn a mask (L, S) or (B H, L, S) into one to add to logits (B, H, L, S); True is minus infinity."""
    if mask.ndim == 3:
        mask = mask.reshape(-1, heads, mask.shape[1], mask.shape[2])
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, float("-inf"))
    return mask.to(dtype)
