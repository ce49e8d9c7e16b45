"""A block of a transformer, packed: tokens in, tokens out, the numbers of the module that it was made of.

Shapes: B batch, L tokens, C width, H heads, E = C / H.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from oneclip.engine.guards import Unplanned, must_be, must_pass_through
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

QUICK = 1.702  # the slope of QuickGELU
Weights = tuple[Tensor, Tensor | None]  # (N, K), and (N,)
KeysValues = tuple[Tensor, Tensor]  # (B, H, L, E) each


@dataclass(frozen=True)
class BlockParts:
    """A pre-norm block of any tower, by the names of what it computes; weights are (N, K), biases (N,)."""

    heads: int
    norm_1: nn.Module
    qkv: Weights
    mix: Callable[
        [Tensor, Tensor, Tensor, Tensor | None], Tensor
    ]  # (B, H, L, E), keys, values, mask to (B, L, C)
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
        """The parts of a block of any tower.

        Args:
            block: of a transformer.
            batch_first: whether that transformer gives its blocks (B, L, C), else (L, B, C).

        Raises:
            Unplanned: for a block or a part of it that is of another class.
        """
        must_be(block, ResidualAttentionBlock, CustomResidualAttentionBlock, SigLIPBlock)
        if isinstance(block, SigLIPBlock):
            return cls._of_siglip(block)
        return cls._of_clip(block, batch_first)

    @classmethod
    def _of_clip(cls, block: Any, batch_first: bool) -> BlockParts:
        attn, mlp = block.attn, block.mlp
        must_be(attn, nn.MultiheadAttention if isinstance(block, ResidualAttentionBlock) else Attention)
        must_be(attn.out_proj, nn.Linear, NonDynamicallyQuantizableLinear)
        must_be(mlp, nn.Sequential)
        must_be(mlp.c_fc, nn.Linear)
        must_be(mlp.c_proj, nn.Linear)
        if isinstance(attn, nn.MultiheadAttention) and (
            attn.batch_first is not batch_first
            or attn.in_proj_weight is None
            or attn.bias_k is not None
            or attn.add_zero_attn
        ):
            raise Unplanned("its attention was replaced by one of another layout")
        same = nn.Identity()
        after = [getattr(block, name, same) for name in ("ln_attn", "ls_1", "ls_2")]
        return cls(
            heads=attn.num_heads,
            norm_1=block.ln_1,
            qkv=(attn.in_proj_weight, attn.in_proj_bias),
            mix=mix if isinstance(attn, nn.MultiheadAttention) else attn.attend,
            out=(attn.out_proj.weight, attn.out_proj.bias),
            after_attention=lambda y: after[1](after[0](y)),
            norm_2=block.ln_2,
            fc=(mlp.c_fc.weight, mlp.c_fc.bias),
            activation=mlp.gelu,
            inner_norm=getattr(mlp, "ln", same),
            proj=(mlp.c_proj.weight, mlp.c_proj.bias),
            after_mlp=after[2],
        )

    @classmethod
    def _of_siglip(cls, block: SigLIPBlock) -> BlockParts:
        attn, mlp = block.attn, block.mlp
        for linear in (attn.qkv, attn.proj, mlp.fc1, mlp.fc2):
            must_be(linear, nn.Linear)
        must_be(attn, SelfAttention)
        must_be(mlp, Mlp)
        must_pass_through(block.ls1, block.drop_path1, block.ls2, block.drop_path2)
        must_pass_through(attn.q_norm, attn.k_norm, attn.attn_drop, attn.norm, attn.proj_drop)
        must_pass_through(mlp.drop1, mlp.norm, mlp.drop2)
        if not attn.fused_attn:
            raise Unplanned("attention is computed in steps")
        return cls(
            heads=attn.num_heads,
            norm_1=block.norm1,
            qkv=(attn.qkv.weight, attn.qkv.bias),
            mix=mix,
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
        parts: what it is made of.
        pack: makes its linear layers.
        pooled_only: it is the last block of a tower of which one token is pooled: only `at` will be called.
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

    def __call__(self, x: Tensor, mask: Tensor | None = None, seen: KeysValues | None = None) -> Tensor:
        """(B, L, C) fp32 -> (B, L, C), in place.

        Args:
            x: tokens.
            mask: added to the attention logits, as in `Attention`: (L, P + L), or (B, 1, L, P + L).
            seen: keys and values of tokens that stand before each row, if any: (B, H, P, E), or (1, H, P, E) if the
                same.
        """
        self.step(x, mask, seen)
        return x

    def step(self, x: Tensor, mask: Tensor | None = None, seen: KeysValues | None = None) -> KeysValues:
        """The same; gives the keys and values of `x`."""
        q, k, v = split(self.qkv(self.norm_1(x)), 3, self.heads)
        x += self.parts.after_attention(self.out(self.parts.mix(q, *behind(seen, k, v), mask)))
        x += self.parts.after_mlp(self.mlp(self.norm_2(x)))
        return k, v

    def keys_values(self, x: Tensor) -> KeysValues:
        """(B, L, C) -> those of its tokens, of a block that is `pooled_only`."""
        k, v = split(self.kv(self.norm_1(x)), 2, self.heads)
        return k, v

    def at(
        self, x: Tensor, positions: Tensor, mask: Tensor | None = None, seen: KeysValues | None = None
    ) -> Tensor:
        """(B, L, C) -> (B, C): the block's result at one position (B,) of each row, and nothing else.

        Keys and values are those of all tokens; queries, output and MLP are of the one. Arguments as above.
        """
        y = self.norm_1(x)
        k, v = split(self.kv(y), 2, self.heads)
        rows = torch.arange(x.shape[0], device=x.device)
        (q,) = split(self.q(y[rows, positions][:, None]), 1, self.heads)  # (B, H, 1, E)
        if mask is not None:
            mask = mask.expand(x.shape[0], 1, x.shape[1], mask.shape[-1])[:, 0]
            mask = mask[rows, positions][:, None, None]  # (B, 1, 1, L)
        x = x[rows, positions][:, None]  # (B, 1, C)
        x = x + self.parts.after_attention(self.out(self.parts.mix(q, *behind(seen, k, v), mask)))
        x = x + self.parts.after_mlp(self.mlp(self.norm_2(x)))
        return x[:, 0]


def behind(seen: KeysValues | None, k: Tensor, v: Tensor) -> KeysValues:
    """Keys and values with those that stand before every row: (B, H, P + L, E)."""
    if seen is None:
        return k, v
    before = [each.expand(len(k), -1, -1, -1) for each in seen]
    return torch.cat([before[0], k], dim=2), torch.cat([before[1], v], dim=2)


class Norm:
    """Layer norm in fp32, whatever the precision of its weights."""

    def __init__(self, norm: nn.Module, eps_factor: float = 1.0) -> None:
        must_be(norm, LayerNorm, nn.LayerNorm)
        norm = cast(nn.LayerNorm, norm)
        self.shape, self.eps = norm.normalized_shape, norm.eps * eps_factor
        self.weight = None if norm.weight is None else norm.weight.detach().float()
        self.bias = None if norm.bias is None else norm.bias.detach().float()

    def __call__(self, x: Tensor) -> Tensor:
        """(..., C) of any precision -> (..., C) fp32."""
        return F.layer_norm(x.float(), self.shape, self.weight, self.bias, self.eps)


def pack_mlp(fc: Weights, activation: nn.Module, inner_norm: nn.Module, proj: Weights, pack: Pack) -> Linear:
    """Two linear layers around an activation, (..., C) -> (..., C); the activation is part of the first.

    QuickGELU, x sigmoid(1.702 x), is SiLU(1.702 x) / 1.702: the slope goes into the weights before it, its inverse into
    those behind, or, where a norm lies between that divides by it anyway, its square into the norm's epsilon. Either
    is exact in real arithmetic.
    """
    (weight, bias), (back, back_bias) = fc, proj
    normed = not isinstance(inner_norm, nn.Identity)
    quick = isinstance(activation, QuickGELU)
    if quick:
        weight, bias = weight * QUICK, None if bias is None else bias * QUICK
        back = back if normed else back / QUICK
    widen, narrow = pack(weight, bias, activation_name(activation)), pack(back, back_bias)
    if normed:
        norm = Norm(inner_norm, eps_factor=QUICK**2 if quick else 1.0)
        return lambda x: narrow(norm(widen(x)))
    return lambda x: narrow(widen(x))


def activation_name(activation: nn.Module) -> str:
    """What `kernels` calls an activation, QuickGELU's slope left to its neighbours."""
    must_be(activation, nn.GELU, QuickGELU)
    if isinstance(activation, QuickGELU):
        return "silu"
    return "gelu_tanh" if cast(nn.GELU, activation).approximate == "tanh" else "gelu"


def split(x: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """(B, L, parts C) -> parts times (B, H, L, E)."""
    return x.reshape(x.shape[0], x.shape[1], parts, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)


def mix(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Queries (B, H, L, E) attend to keys and values (B, H, S, E): (B, L, C)."""
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return y.transpose(1, 2).flatten(2)
