"""One view of the transformer blocks of all towers: their queries, keys and values, and what follows the attention.

Shapes: B batch, L tokens, C width, H heads, E width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneclip.model.attention import Attention
from oneclip.model.siglip_layers import SelfAttention
from oneclip.model.transformer import CustomResidualAttentionBlock, ResidualAttentionBlock

# timm's attention layers whose queries, keys and values are read here, and its blocks with norms behind them
_TIMM_ATTENTION = ("Attention", "AttentionRope", "EvaAttention", "RelPosAttention")
_TIMM_POST_NORM = ("EvaBlockPostNorm", "ResPostBlock", "ResPostRelPosBlock")


class BlockView(Protocol):
    """What is asked of a block."""

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute queries, keys and values, (B, H, L, E) each, of tokens (B, L, C)."""
        ...

    def merge(self, heads: Tensor) -> Tensor:
        """Convert the output of the attention (B, H, L, E) to what the block adds to its tokens (B, L, C)."""
        ...

    def finish(self, x: Tensor) -> Tensor:
        """Run what follows the attention, (B, L, C) -> (B, L, C)."""
        ...

    @property
    def has_plain_attention(self) -> bool:
        """True if the attention is the softmax of queries and keys, without positions of its own."""
        ...


@dataclass(frozen=True)
class OwnBlock:
    """A block of `oneclip.model.transformer`."""

    block: Any

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `BlockView`."""
        attention = self.block.attn
        qkv = F.linear(self.block.ln_1(x), attention.in_proj_weight, attention.in_proj_bias)
        q, k, v = _by_heads(qkv, attention.num_heads)
        if isinstance(attention, Attention):
            if attention.logit_scale is not None:  # cosine attention: `scaled_dot_product` divides by sqrt(E)
                scale = attention.logit_scale.clamp(max=attention.logit_scale_max).exp() * q.shape[-1] ** 0.5
                q, k = F.normalize(q, dim=-1) * scale.sqrt(), F.normalize(k, dim=-1) * scale.sqrt()
            else:
                q, k = attention.ln_q(q), attention.ln_k(k)
        return q, k, v

    def merge(self, heads: Tensor) -> Tensor:
        """See `BlockView`."""
        attention = self.block.attn
        if isinstance(attention, Attention):
            if attention.head_scale is not None:
                heads = heads * attention.head_scale
            branch = self.block.ln_attn(attention.out_proj(attention.ln_inner(_joined(heads))))
        else:
            branch = F.linear(_joined(heads), attention.out_proj.weight, attention.out_proj.bias)
        return self.block.ls_1(branch)  # type: ignore[no-any-return]

    def finish(self, x: Tensor) -> Tensor:
        """See `BlockView`."""
        return x + self.block.ls_2(self.block.mlp(self.block.ln_2(x)))  # type: ignore[no-any-return]

    @property
    def has_plain_attention(self) -> bool:
        """See `BlockView`."""
        return True


@dataclass(frozen=True)
class TrunkBlock:
    """A block of SigLIP's tower, or of one of timm's vision transformers.

    Attributes:
        post_norm: norms follow the attention and the MLP instead of preceding them.
    """

    block: Any
    post_norm: bool

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `BlockView`."""
        attention = self.block.attn
        x = x if self.post_norm else self.block.norm1(x)
        if attention.qkv is None:
            projections = (attention.q_proj, attention.k_proj, attention.v_proj)
            qkv = torch.cat([projection(x) for projection in projections], dim=-1)
        else:
            qkv = attention.qkv(x)
            if getattr(attention, "q_bias", None) is not None:
                qkv = qkv + torch.cat((attention.q_bias, attention.k_bias, attention.v_bias))
        q, k, v = _by_heads(qkv, attention.num_heads)
        return attention.q_norm(q), attention.k_norm(k), v

    def merge(self, heads: Tensor) -> Tensor:
        """See `BlockView`."""
        attention, branch = self.block.attn, _joined(heads)
        branch = attention.proj(getattr(attention, "norm", nn.Identity())(branch))
        return self.block.norm1(branch) if self.post_norm else self._scaled(branch, 1)

    def finish(self, x: Tensor) -> Tensor:
        """See `BlockView`."""
        if self.post_norm:
            return x + self.block.norm2(self.block.mlp(x))  # type: ignore[no-any-return]
        return x + self._scaled(self.block.mlp(self.block.norm2(x)), 2)

    @property
    def has_plain_attention(self) -> bool:
        """See `BlockView`."""
        return type(self.block.attn).__name__ in ("Attention", "SelfAttention")

    def _scaled(self, branch: Tensor, number: int) -> Tensor:
        """Apply the layer scale of a branch: a module in most towers, a tensor or None in EVA."""
        if hasattr(self.block, f"ls{number}"):
            return getattr(self.block, f"ls{number}")(branch)  # type: ignore[no-any-return]
        gamma = getattr(self.block, f"gamma_{number}", None)
        return branch if gamma is None else gamma * branch


def view_block(block: nn.Module) -> BlockView | None:
    """Return the view of a block; None for a block whose attention is unknown."""
    attention: Any = getattr(block, "attn", None)
    if isinstance(block, (ResidualAttentionBlock, CustomResidualAttentionBlock)):
        known = isinstance(attention, (nn.MultiheadAttention, Attention))
        return OwnBlock(block) if known and attention.in_proj_weight is not None else None
    known = isinstance(attention, SelfAttention) or type(attention).__name__ in _TIMM_ATTENTION
    parts = all(hasattr(block, name) for name in ("norm1", "norm2", "mlp"))
    heads = getattr(attention, "num_kv_heads", None) in (None, getattr(attention, "num_heads", None))
    gated = getattr(attention, "gate", None) is not None
    if not (known and parts and heads) or gated:
        return None
    return TrunkBlock(block, post_norm=type(block).__name__ in _TIMM_POST_NORM)


def attend_to_similar(block: BlockView, x: Tensor, prefix: int) -> Tensor:
    """Replace a block by attention between similar patches, without residual and MLP.

    A patch attends to the patches with similar keys and with similar queries: the mean of softmax(k k') and
    softmax(q q'). What a patch gathers so is from its own object, where attention to other patches collects context
    (Li et al. 2023, CLIP Surgery; Lan et al. 2024, ClearCLIP; Hajimiri et al. 2024, NACLIP).

    Args:
        block: the last block of a tower.
        x: (1, L, C), its input.
        prefix: number of tokens before the patches.

    Returns:
        (1, L - prefix, C).
    """
    q, k, v = (part[:, :, prefix:] for part in block.split(x))
    similar = F.scaled_dot_product_attention(k, k, v) + F.scaled_dot_product_attention(q, q, v)
    return block.merge(similar / 2)


def _by_heads(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Split (B, L, 3 C) into three tensors (B, H, L, E)."""
    batch, length, width = qkv.shape
    q, k, v = qkv.reshape(batch, length, 3, heads, width // 3 // heads).permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


def _joined(heads: Tensor) -> Tensor:
    """Join heads, (B, H, L, E) -> (B, L, H E)."""
    return heads.transpose(1, 2).flatten(2)
