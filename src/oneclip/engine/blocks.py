"""Transformer blocks with packed linear layers; they compute the same numbers as the module they are built from.

Shapes: B batch, L tokens, P tokens of a shared prefix, C width, H heads, E = C / H.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from oneclip.engine.guards import PlanUnsupported, require_identity, require_type
from oneclip.engine.kernels import Linear, Pack
from oneclip.model import (
    Attention,
    CustomResidualAttentionBlock,
    LayerNorm,
    QuickGELU,
    ResidualAttentionBlock,
)
from oneclip.model.siglip_layers import Block as SigLIPBlock
from oneclip.model.siglip_layers import Mlp, SelfAttention

QUICK_GELU_SLOPE = 1.702
Weights = tuple[Tensor, Tensor | None]  # (N, K), and (N,)
KeysValues = tuple[Tensor, Tensor]  # (B, H, L, E) each


@dataclass(frozen=True)
class BlockParts:
    """Parts of a pre-norm block of any tower, by what they compute; weights are (N, K), biases (N,)."""

    heads: int
    norm_1: nn.Module
    qkv: Weights
    # queries (B, H, L, E), keys, values, mask to (B, L, C)
    attend: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
    out: Weights
    after_attention: Callable[[Tensor], Tensor]
    norm_2: nn.Module
    fc: Weights
    activation: nn.Module
    inner_norm: nn.Module
    proj: Weights
    after_mlp: Callable[[Tensor], Tensor]

    @classmethod
    def of(cls, block: nn.Module, batch_first: bool = True) -> BlockParts:
        """Collect the parts of a block of any tower.

        Args:
            block: of a transformer.
            batch_first: True if that transformer passes (B, L, C) to its blocks, False for (L, B, C).

        Raises:
            PlanUnsupported: if the block or one of its parts is of an unknown class.
        """
        require_type(block, ResidualAttentionBlock, CustomResidualAttentionBlock, SigLIPBlock)
        if isinstance(block, SigLIPBlock):
            return cls._of_siglip(block)
        return cls._of_clip(block, batch_first)

    @classmethod
    def _of_clip(cls, block: Any, batch_first: bool) -> BlockParts:
        attn, mlp = block.attn, block.mlp
        require_type(attn, nn.MultiheadAttention if isinstance(block, ResidualAttentionBlock) else Attention)
        require_type(attn.out_proj, nn.Linear, NonDynamicallyQuantizableLinear)
        require_type(mlp, nn.Sequential)
        require_type(mlp.c_fc, nn.Linear)
        require_type(mlp.c_proj, nn.Linear)
        if isinstance(attn, nn.MultiheadAttention) and (
            attn.batch_first is not batch_first
            or attn.in_proj_weight is None
            or attn.bias_k is not None
            or attn.add_zero_attn
        ):
            raise PlanUnsupported("its attention was replaced by one of another layout")
        identity = nn.Identity()
        after = [getattr(block, name, identity) for name in ("ln_attn", "ls_1", "ls_2")]
        return cls(
            heads=attn.num_heads,
            norm_1=block.ln_1,
            qkv=(attn.in_proj_weight, attn.in_proj_bias),
            attend=attend if isinstance(attn, nn.MultiheadAttention) else attn.attend,
            out=(attn.out_proj.weight, attn.out_proj.bias),
            after_attention=lambda y: after[1](after[0](y)),
            norm_2=block.ln_2,
            fc=(mlp.c_fc.weight, mlp.c_fc.bias),
            activation=mlp.gelu,
            inner_norm=getattr(mlp, "ln", identity),
            proj=(mlp.c_proj.weight, mlp.c_proj.bias),
            after_mlp=after[2],
        )

    @classmethod
    def _of_siglip(cls, block: SigLIPBlock) -> BlockParts:
        attn, mlp = block.attn, block.mlp
        for linear in (attn.qkv, attn.proj, mlp.fc1, mlp.fc2):
            require_type(linear, nn.Linear)
        require_type(attn, SelfAttention)
        require_type(mlp, Mlp)
        require_identity(block.ls1, block.drop_path1, block.ls2, block.drop_path2)
        require_identity(attn.q_norm, attn.k_norm, attn.attn_drop, attn.norm, attn.proj_drop)
        require_identity(mlp.drop1, mlp.norm, mlp.drop2)
        if not attn.fused_attn:
            raise PlanUnsupported("its attention is not the fused one")
        return cls(
            heads=attn.num_heads,
            norm_1=block.norm1,
            qkv=(attn.qkv.weight, attn.qkv.bias),
            attend=attend,
            out=(attn.proj.weight, attn.proj.bias),
            after_attention=nn.Identity(),
            norm_2=block.norm2,
            fc=(mlp.fc1.weight, mlp.fc1.bias),
            activation=mlp.act,
            inner_norm=nn.Identity(),
            proj=(mlp.fc2.weight, mlp.fc2.bias),
            after_mlp=nn.Identity(),
        )


class PackedBlock:
    """Pre-norm attention and MLP, each on a residual branch in fp32.

    Args:
        parts: of the module.
        pack: makes the linear layers.
        pooled_only: True for the last block of a tower that pools one token: only `pooled` and `keys_values` are
            called then.
    """

    def __init__(self, parts: BlockParts, pack: Pack, pooled_only: bool = False) -> None:
        self.parts, self.heads, self.hidden = parts, parts.heads, parts.fc[0].shape[0]
        self.norm_1, self.norm_2 = Norm(parts.norm_1), Norm(parts.norm_2)
        weight, bias = parts.qkv
        if pooled_only:
            width = weight.shape[1]
            self.q = pack(weight[:width], None if bias is None else bias[:width])
            self.kv = pack(weight[width:], None if bias is None else bias[width:])
        else:
            self.qkv = pack(weight, bias)
        self.out = pack(*parts.out)
        self.mlp = pack_mlp(parts.fc, parts.activation, parts.inner_norm, parts.proj, pack)

    def __call__(self, x: Tensor, mask: Tensor | None = None, prefix: KeysValues | None = None) -> KeysValues:
        """Update tokens (B, L, C) in place.

        Args:
            x: tokens in fp32.
            mask: added to the attention logits, as in `Attention`: (L, P + L), or (B, 1, L, P + L).
            prefix: keys and values of a prefix of each row, (B, H, P, E); (1, H, P, E) if all rows share it.

        Returns:
            The keys and values of `x`.
        """
        q, k, v = split_heads(self.qkv(self.norm_1(x)), 3, self.heads)
        x += self.parts.after_attention(self.out(self.parts.attend(q, *prepend_kv(prefix, k, v), mask)))
        x += self.parts.after_mlp(self.mlp(self.norm_2(x)))
        return k, v

    def keys_values(self, x: Tensor) -> KeysValues:
        """Compute the keys and values of tokens (B, L, C) only."""
        k, v = split_heads(self.kv(self.norm_1(x)), 2, self.heads)
        return k, v

    def pooled(
        self, x: Tensor, positions: Tensor, mask: Tensor | None = None, prefix: KeysValues | None = None
    ) -> Tensor:
        """Compute the block's output (B, C) at one position (B,) of each row of (B, L, C).

        Keys and values are computed for all tokens; queries, output and MLP for the pooled token only. Other arguments
        are those of `__call__`.
        """
        y = self.norm_1(x)
        k, v = split_heads(self.kv(y), 2, self.heads)
        rows = torch.arange(x.shape[0], device=x.device)
        (q,) = split_heads(self.q(y[rows, positions][:, None]), 1, self.heads)  # (B, H, 1, E)
        if mask is not None:
            mask = mask.expand(x.shape[0], 1, x.shape[1], mask.shape[-1])[:, 0]
            mask = mask[rows, positions][:, None, None]  # (B, 1, 1, P + L)
        x = x[rows, positions][:, None]  # (B, 1, C)
        x = x + self.parts.after_attention(self.out(self.parts.attend(q, *prepend_kv(prefix, k, v), mask)))
        x = x + self.parts.after_mlp(self.mlp(self.norm_2(x)))
        return x[:, 0]


def prepend_kv(prefix: KeysValues | None, k: Tensor, v: Tensor) -> KeysValues:
    """Put the keys and values of a prefix before those of each row: (B, H, P + L, E)."""
    if prefix is None:
        return k, v
    keys, values = (each.expand(len(k), -1, -1, -1) for each in prefix)
    return torch.cat([keys, k], dim=2), torch.cat([values, v], dim=2)


class Norm:
    """Layer norm in fp32, whatever the precision of its weights."""

    def __init__(self, norm: nn.Module, eps_factor: float = 1.0) -> None:
        require_type(norm, LayerNorm, nn.LayerNorm)
        norm = cast(nn.LayerNorm, norm)
        self.shape, self.eps = norm.normalized_shape, norm.eps * eps_factor
        self.weight = None if norm.weight is None else norm.weight.detach().float()
        self.bias = None if norm.bias is None else norm.bias.detach().float()

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.float(), self.shape, self.weight, self.bias, self.eps)


def pack_mlp(fc: Weights, activation: nn.Module, inner_norm: nn.Module, proj: Weights, pack: Pack) -> Linear:
    """Pack two linear layers with an activation between them, (..., C) -> (..., C).

    QuickGELU, x sigmoid(1.702 x), is SiLU(1.702 x) / 1.702. The slope is multiplied into the weights before it, and
    divided out of the weights after it. If there is a norm between them, which divides by the scale anyway, the norm's
    epsilon is multiplied by the square of the slope instead. Both are exact in real arithmetic.
    """
    (weight, bias), (back, back_bias) = fc, proj
    has_norm = not isinstance(inner_norm, nn.Identity)
    quick = isinstance(activation, QuickGELU)
    if quick:
        weight, bias = weight * QUICK_GELU_SLOPE, None if bias is None else bias * QUICK_GELU_SLOPE
        back = back if has_norm else back / QUICK_GELU_SLOPE
    widen, narrow = pack(weight, bias, activation_name(activation)), pack(back, back_bias)
    if has_norm:
        norm = Norm(inner_norm, eps_factor=QUICK_GELU_SLOPE**2 if quick else 1.0)
        return lambda x: narrow(norm(widen(x)))
    return lambda x: narrow(widen(x))


def activation_name(activation: nn.Module) -> str:
    """Return the key of an activation in `kernels.ACTIVATIONS`; QuickGELU is "silu", see `pack_mlp`."""
    require_type(activation, nn.GELU, QuickGELU)
    if isinstance(activation, QuickGELU):
        return "silu"
    return "gelu_tanh" if cast(nn.GELU, activation).approximate == "tanh" else "gelu"


def split_heads(x: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """Split (B, L, parts C) into `parts` tensors (B, H, L, E)."""
    return x.reshape(x.shape[0], x.shape[1], parts, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attend with queries (B, H, L, E) to keys and values (B, H, S, E); the result is (B, L, C)."""
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return y.transpose(1, 2).flatten(2)
