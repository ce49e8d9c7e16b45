"""The parts of `open_clip.transformer`'s towers: those of `oneclip.model`, with the published arguments."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneclip import model as ours
from oneclip.errors import ConfigError
from oneclip.model import LayerNorm

Layer = Callable[..., nn.Module]


class Published(type):
    """Classes with the published arguments, that recognise whatever `oneclip.model` builds of their kind.

    `isinstance(model.visual, VisionTransformer)` then holds, and so do wrapping policies that list classes.
    """

    kind: type | None

    def __instancecheck__(cls, instance: object) -> bool:
        kind = cls.__dict__.get("kind")
        return type.__instancecheck__(cls, instance) if kind is None else isinstance(instance, kind)

    def __subclasscheck__(cls, subclass: type) -> bool:
        kind = cls.__dict__.get("kind")
        return type.__subclasscheck__(cls, subclass) if kind is None else issubclass(subclass, kind)


def refuse(what: str, **arguments: tuple[Any, Any]) -> None:
    """Raise ConfigError for an argument that has another value than the one that is computed here."""
    for name, (value, only) in arguments.items():
        if value != only:
            raise ConfigError(f"{what} here has {name}={only!r} and nothing else; {value!r} was asked for")


def put_layers(module: nn.Module, act_layer: Layer, norm_layer: Layer) -> None:
    """Give the blocks and norms of a tower other layers than GELU and LayerNorm; poolers keep theirs, as there."""
    if isinstance(module, ours.AttentionalPooler):
        return
    for name, child in module.named_children():
        if name == "gelu" and act_layer is not nn.GELU:
            setattr(module, name, act_layer())
        elif isinstance(child, LayerNorm) and norm_layer is not LayerNorm:
            setattr(module, name, norm_layer(child.normalized_shape[0]))
        else:
            put_layers(child, act_layer, norm_layer)


def switches(names: dict[str, Any], block_type: str | None = None) -> dict[str, Any]:
    """The switches of a custom block, which one that is asked for as "default" does not have."""
    if block_type not in (None, "default", "custom"):
        raise ConfigError(f"block_type is {block_type!r}; expected 'default' or 'custom'")
    return {} if block_type == "default" else names


class LayerNormFp32(LayerNorm):
    """Layer norm in fp32, whatever the precision of input and weights; given back in the precision of the input."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        weight = self.weight.float() if self.weight is not None else None
        bias = self.bias.float() if self.bias is not None else None
        return F.layer_norm(input.float(), self.normalized_shape, weight, bias, self.eps).to(input.dtype)


class LayerScale(ours.LayerScale, metaclass=Published):
    """A learned factor per channel; `inplace` multiplies where the numbers are."""

    kind = ours.LayerScale

    def __init__(self, dim: int, init_values: float = 1e-5, inplace: bool = False) -> None:
        super().__init__(dim, init_values)
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return x.mul_(self.gamma) if self.inplace else x * self.gamma


class Attention(ours.Attention, metaclass=Published):
    """Multi-head self-attention.

    Raises:
        ConfigError: for dropout, or without biases; no published model has either.
    """

    kind = ours.Attention

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
        norm_layer: Layer = LayerNormFp32,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        refuse(
            "Attention",
            qkv_bias=(qkv_bias, True),
            logit_scale_max=(logit_scale_max, math.log(1.0 / 0.01)),
            attn_drop=(attn_drop, 0.0),
            proj_drop=(proj_drop, 0.0),
        )
        super().__init__(dim, num_heads, None, qk_norm, scaled_cosine, scale_heads, inner_norm, norm_layer)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """(B, L, C) -> (B, L, C).

        Args:
            x: tokens.
            attn_mask: (L, L), or (B H, L, L): added to the attention logits, or True where nothing is attended to.
        """
        if attn_mask is not None and attn_mask.ndim == 3:
            attn_mask = attn_mask.reshape(-1, self.num_heads, *attn_mask.shape[1:])
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=x.dtype).masked_fill_(attn_mask, float("-inf"))
        return super().forward(x, attn_mask=attn_mask)


class ResidualAttentionBlock(ours.ResidualAttentionBlock, metaclass=Published):
    """Pre-norm attention and MLP, each on a residual branch; over another input's tokens, if it is asked to."""

    kind = ours.ResidualAttentionBlock

    def __init__(
        self,
        d_model: int,
        n_head: int,
        mlp_ratio: float = 4.0,
        ls_init_value: float | None = None,
        act_layer: Layer = nn.GELU,
        norm_layer: Layer = LayerNorm,
        is_cross_attention: bool = False,
        batch_first: bool = True,
    ) -> None:
        super().__init__(ours.BlockCfg(d_model, n_head, mlp_ratio, ls_init_value, norm_layer=norm_layer))
        put_layers(self, act_layer, LayerNorm)
        self.batch_first = batch_first
        if is_cross_attention:
            self.ln_1_kv = norm_layer(d_model)

    def forward(  # type: ignore[override]
        self,
        q_x: Tensor,
        k_x: Tensor | None = None,
        v_x: Tensor | None = None,
        attn_mask: Tensor | None = None,
    ) -> Tensor:
        """(B, L, C) -> (B, L, C), or (L, B, C) both unless `batch_first`.

        Args:
            q_x: tokens.
            k_x: (B, S, C) what a block of cross attention attends to; other blocks pass over it, as there.
            v_x: the same tensor as `k_x`.
            attn_mask: added to the attention logits.

        Raises:
            ConfigError: if keys and values are to come from two inputs.
        """
        if v_x is not None and v_x is not k_x:
            raise ConfigError(
                "keys and values are made of one input here: give the same tensor as k_x and v_x"
            )
        context = self.ln_1_kv(k_x) if k_x is not None and hasattr(self, "ln_1_kv") else None
        if not self.batch_first:
            q_x, context = q_x.transpose(0, 1), None if context is None else context.transpose(0, 1)
        x = q_x + self.ls_1(self.ln_attn(self.attn(self.ln_1(q_x), context, attn_mask)))
        x = self.feed_forward(x)
        return x if self.batch_first else x.transpose(0, 1)


class CustomResidualAttentionBlock(ours.ResidualAttentionBlock, metaclass=Published):
    """The block with switches; see `oneclip.model.Attention` for what they do."""

    kind = ours.ResidualAttentionBlock

    def __init__(
        self,
        d_model: int,
        n_head: int,
        mlp_ratio: float = 4.0,
        ls_init_value: float | None = None,
        act_layer: Layer = nn.GELU,
        norm_layer: Layer = LayerNorm,
        qk_norm: bool = False,
        scale_cosine_attn: bool = False,
        scale_heads: bool = False,
        scale_attn_inner: bool = False,
        scale_attn: bool = False,
        scale_fc: bool = False,
        batch_first: bool = True,
    ) -> None:
        refuse("a custom block", batch_first=(batch_first, True))
        super().__init__(
            ours.BlockCfg(
                d_model,
                n_head,
                mlp_ratio,
                ls_init_value,
                qk_norm=qk_norm,
                scaled_cosine_attn=scale_cosine_attn,
                scale_heads=scale_heads,
                scale_attn_inner=scale_attn_inner,
                scale_attn=scale_attn,
                scale_fc=scale_fc,
                norm_layer=norm_layer,
            )
        )
        put_layers(self, act_layer, LayerNorm)
