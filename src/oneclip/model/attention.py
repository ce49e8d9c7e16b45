"""Multi-head attention under the published parameter names.

Shapes: B batch, L query tokens, S key tokens, C width, H heads, E = C / H.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneclip.errors import ConfigError
from oneclip.model.layers import LayerNorm


class Attention(nn.Module):
    """Multi-head attention; over its own input, or over a context of another width.

    The parameters are named as those of `nn.MultiheadAttention`: `in_proj_weight`, `in_proj_bias`,
    `out_proj.weight`, `out_proj.bias`, and `q_proj_weight`, `k_proj_weight`, `v_proj_weight` when the context's width
    differs.

    Args:
        dim: C.
        num_heads: H, a divisor of C.
        context_dim: width of the keys' and values' input, C when None.
        qk_norm: normalise queries and keys per head (Dehghani et al. 2023).
        scaled_cosine: cosine attention with a learned temperature per head (Liu et al. 2022, Swin V2).
        scale_heads: a learned factor per head on the output (Shleifer et al. 2021, NormFormer).
        inner_norm: normalise before the output projection (Wang et al. 2022, Foundation Transformers).
        norm_layer: makes a norm from a width.

    Raises:
        ConfigError: if H does not divide C, or both `qk_norm` and `scaled_cosine` are asked for.
    """

    if TYPE_CHECKING:  # TorchScript would take these for types to compile by
        logit_scale: nn.Parameter | None
        head_scale: nn.Parameter | None

    def __init__(
        self,
        dim: int,
        num_heads: int,
        context_dim: int | None = None,
        qk_norm: bool = False,
        scaled_cosine: bool = False,
        scale_heads: bool = False,
        inner_norm: bool = False,
        norm_layer: Callable[[int], nn.Module] = LayerNorm,
    ) -> None:
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ConfigError(
                f"attention of width {dim} cannot be split into {num_heads} heads of equal width"
            )
        if qk_norm and scaled_cosine:
            raise ConfigError("qk_norm and scaled_cosine_attn both rescale queries and keys: choose one")
        self.embed_dim = dim
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        context_dim = context_dim or dim
        if context_dim == dim:
            self.in_proj_weight = nn.Parameter(xavier(3 * dim, dim))
            for name in ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
                self.register_parameter(name, None)
        else:
            self.register_parameter("in_proj_weight", None)
            self.q_proj_weight = nn.Parameter(xavier(dim, dim))
            self.k_proj_weight = nn.Parameter(xavier(dim, context_dim))
            self.v_proj_weight = nn.Parameter(xavier(dim, context_dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.ln_q = norm_layer(self.head_dim) if qk_norm else nn.Identity()
        self.ln_k = norm_layer(self.head_dim) if qk_norm else nn.Identity()
        log_ten = torch.full((num_heads, 1, 1), math.log(10.0))
        self.register_parameter("logit_scale", nn.Parameter(log_ten) if scaled_cosine else None)
        self.register_parameter(
            "head_scale", nn.Parameter(torch.ones(num_heads, 1, 1)) if scale_heads else None
        )
        self.ln_inner = norm_layer(dim) if inner_norm else nn.Identity()
        self.out_proj = nn.Linear(dim, dim)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, context: Tensor | None = None, attn_mask: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            x: (B, L, C) what the queries are made of.
            context: (B, S, context_dim) what the keys and values are made of; `x` when None.
            attn_mask: added to the attention logits, broadcastable to (B, H, L, S).

        Returns:
            (B, L, C).
        """
        q, k, v = self.project(x, context)
        return self.mix(q, k, v, attn_mask)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """Queries (B, H, L, E) attend to keys and values (B, H, S, E), as `project` makes them: (B, L, C)."""
        out: Tensor = self.out_proj(self.gather(q, k, v, attn_mask))
        return out

    def gather(self, q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """What `mix` projects: the heads side by side, (B, L, C)."""
        mask = attn_mask.to(q.dtype) if attn_mask is not None else None
        if self.logit_scale is not None:
            scale = self.logit_scale.clamp(max=math.log(100.0)).exp()  # (H, 1, 1); the bound is Swin V2's
            q, k = F.normalize(q, dim=-1) * scale.to(q.dtype), F.normalize(k, dim=-1)
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
        else:
            y = F.scaled_dot_product_attention(self.ln_q(q), self.ln_k(k), v, attn_mask=mask)  # (B, H, L, E)
        if self.head_scale is not None:
            y = y * self.head_scale
        y = y.transpose(1, 2).reshape(y.shape[0], y.shape[2], self.embed_dim)
        inner: Tensor = self.ln_inner(y)
        return inner

    def project(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, L, E), keys and values (B, H, S, E)."""
        if self.in_proj_weight is not None and context is None:
            q, k, v = F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
            return self.split_heads(q), self.split_heads(k), self.split_heads(v)
        k, v = self.project_context(x if context is None else context)
        return self.project_queries(x), k, v

    def project_queries(self, x: Tensor) -> Tensor:
        """(B, L, C) -> (B, H, L, E)."""
        weight = self.q_proj_weight if self.in_proj_weight is None else self.in_proj_weight[: self.embed_dim]
        return self.split_heads(F.linear(x, weight, self.in_proj_bias[: self.embed_dim]))

    def project_context(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of (B, S, context_dim), (B, H, S, E) each."""
        bias = self.in_proj_bias[self.embed_dim :]
        if self.in_proj_weight is not None:
            k, v = F.linear(context, self.in_proj_weight[self.embed_dim :], bias).chunk(2, dim=-1)
        else:
            k_bias, v_bias = bias.chunk(2)
            k, v = (
                F.linear(context, self.k_proj_weight, k_bias),
                F.linear(context, self.v_proj_weight, v_bias),
            )
        return self.split_heads(k), self.split_heads(v)

    def split_heads(self, x: Tensor) -> Tensor:
        """(B, L, C) -> (B, H, L, E)."""
        return x.reshape(x.shape[0], x.shape[1], self.num_heads, self.head_dim).transpose(1, 2)


class AttentionalPooler(nn.Module):
    """Pool tokens by attention from learned queries (Yu et al. 2022, CoCa, section 3.2).

    Args:
        d_model: width of queries and output.
        context_dim: width of the tokens.
        n_head: heads.
        n_queries: Q, how many vectors come out.
        norm_layer: makes a norm from a width.
    """

    def __init__(
        self,
        d_model: int,
        context_dim: int,
        n_head: int = 8,
        n_queries: int = 256,
        norm_layer: Callable[[int], nn.Module] = LayerNorm,
    ) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(n_queries, d_model))
        self.attn = Attention(d_model, n_head, context_dim=context_dim)
        self.ln_q = norm_layer(d_model)
        self.ln_k = norm_layer(context_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, context_dim) -> (B, Q, d_model)."""
        query = self.ln_q(self.query).to(x.dtype).expand(x.shape[0], -1, -1)
        out: Tensor = self.attn(query, self.ln_k(x))
        return out


def xavier(rows: int, columns: int) -> Tensor:
    """Uniform weights that keep the variance, as `nn.MultiheadAttention` begins with (Glorot & Bengio 2010)."""
    return nn.init.xavier_uniform_(torch.empty(rows, columns))
