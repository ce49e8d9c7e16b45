"""Transformer blocks and stacks of both towers.

Blocks, their parts and their arguments are those of `open_clip.transformer`, so that programs which hook, replace or
patch a part find what they expect.

Shapes: B batch, L tokens, S tokens of another input, C width, H heads.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from oneclip.errors import ConfigError
from oneclip.model.attention import Attention, Norm, check_heads, is_replaceable, self_attention
from oneclip.model.layers import LayerNorm, LayerScale, lowest_precision

Activation = Callable[[], nn.Module]

CUSTOM = "CustomResidualAttentionBlock"


class ResidualAttentionBlock(nn.Module):
    """Pre-norm attention and MLP, each on a residual branch.

    Args:
        d_model: C.
        n_head: H.
        mlp_ratio: width of the MLP, as a multiple of C.
        ls_init_value: initial value of the layer scales; None for no layer scale.
        act_layer: makes the activation.
        norm_layer: makes a norm from a width.
        is_cross_attention: attend to another input, which has a norm of its own.
        batch_first: tokens are (B, L, C), else (L, B, C).
    """

    mlp: Any

    def __init__(
        self,
        d_model: int,
        n_head: int,
        mlp_ratio: float = 4.0,
        ls_init_value: float | None = None,
        act_layer: Activation = nn.GELU,
        norm_layer: Norm = LayerNorm,
        is_cross_attention: bool = False,
        batch_first: bool = True,
    ) -> None:
        super().__init__()
        check_heads(d_model, n_head)
        self.ln_1 = norm_layer(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_head, batch_first=batch_first)
        self.ls_1 = LayerScale(d_model, ls_init_value) if ls_init_value is not None else nn.Identity()
        if is_cross_attention:
            self.ln_1_kv = norm_layer(d_model)
        self.ln_2 = norm_layer(d_model)
        hidden = int(d_model * mlp_ratio)
        self.mlp = nn.Sequential(
            OrderedDict[str, nn.Module](
                c_fc=nn.Linear(d_model, hidden), gelu=act_layer(), c_proj=nn.Linear(hidden, d_model)
            )
        )
        self.ls_2 = LayerScale(d_model, ls_init_value) if ls_init_value is not None else nn.Identity()

    def get_weight_dtype(self) -> torch.dtype:
        """Return the dtype of the linear weights, which tokens are cast to."""
        return linear_dtype(self)

    def attention(
        self,
        q_x: Tensor,
        k_x: Tensor | None = None,
        v_x: Tensor | None = None,
        attn_mask: Tensor | None = None,
    ) -> Tensor:
        """Attend from normalized tokens to themselves, or to `k_x` and `v_x`; arguments as in `forward`."""
        if k_x is None and v_x is None and is_replaceable(self.attn):
            return self_attention(self.attn, q_x, attn_mask)
        k_x = k_x if k_x is not None else q_x
        v_x = v_x if v_x is not None else q_x
        attn_mask = attn_mask.to(q_x.dtype) if attn_mask is not None else None
        return self.attn(q_x, k_x, v_x, need_weights=False, attn_mask=attn_mask)[0]

    def forward(
        self,
        q_x: Tensor,
        k_x: Tensor | None = None,
        v_x: Tensor | None = None,
        attn_mask: Tensor | None = None,
    ) -> Tensor:
        """Run the block.

        Args:
            q_x: (B, L, C) tokens.
            k_x: (B, S, C) source of the keys in cross-attention; other blocks do not read it.
            v_x: (B, S, C) source of the values in cross-attention.
            attn_mask: (L, S) or (B H, L, S), added to the attention logits.

        Returns:
            (B, L, C).
        """
        if hasattr(self, "ln_1_kv"):
            k_x = self.ln_1_kv(k_x) if k_x is not None else None
            v_x = self.ln_1_kv(v_x) if v_x is not None else None
        else:
            k_x = None
            v_x = None
        attended = self.attention(self.ln_1(q_x), k_x=k_x, v_x=v_x, attn_mask=attn_mask)
        x = q_x + self.ls_1(attended)
        return x + self.ls_2(self.mlp(self.ln_2(x)))


class CustomResidualAttentionBlock(nn.Module):
    """Pre-norm attention and MLP with the options of `Attention`, and norms after attention and inside the MLP.

    Args:
        d_model, n_head, mlp_ratio, ls_init_value, act_layer, norm_layer: as in `ResidualAttentionBlock`.
        qk_norm, scale_cosine_attn, scale_heads, scale_attn_inner: see `Attention`.
        scale_attn: normalize after attention (Shleifer et al. 2021, NormFormer).
        scale_fc: normalize inside the MLP (the same paper).
        batch_first: must be True.
    """

    mlp: Any

    def __init__(
        self,
        d_model: int,
        n_head: int,
        mlp_ratio: float = 4.0,
        ls_init_value: float | None = None,
        act_layer: Activation = nn.GELU,
        norm_layer: Norm = LayerNorm,
        qk_norm: bool = False,
        scale_cosine_attn: bool = False,
        scale_heads: bool = False,
        scale_attn_inner: bool = False,
        scale_attn: bool = False,
        scale_fc: bool = False,
        batch_first: bool = True,
    ) -> None:
        super().__init__()
        if not batch_first:
            raise ConfigError("a custom block takes (B, L, C): batch_first must be True")
        self.ln_1 = norm_layer(d_model)
        self.attn = Attention(
            d_model,
            n_head,
            qk_norm=qk_norm,
            scaled_cosine=scale_cosine_attn,
            scale_heads=scale_heads,
            inner_norm=scale_attn_inner,
            norm_layer=norm_layer,
        )
        self.ln_attn = norm_layer(d_model) if scale_attn else nn.Identity()
        self.ls_1 = LayerScale(d_model, ls_init_value) if ls_init_value is not None else nn.Identity()
        self.ln_2 = norm_layer(d_model)
        hidden = int(d_model * mlp_ratio)
        self.mlp = nn.Sequential(
            OrderedDict[str, nn.Module](
                c_fc=nn.Linear(d_model, hidden),
                gelu=act_layer(),
                ln=norm_layer(hidden) if scale_fc else nn.Identity(),
                c_proj=nn.Linear(hidden, d_model),
            )
        )
        self.ls_2 = LayerScale(d_model, ls_init_value) if ls_init_value is not None else nn.Identity()

    def get_weight_dtype(self) -> torch.dtype:
        """Return the dtype of the linear weights, which tokens are cast to."""
        return linear_dtype(self)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """(B, L, C) -> (B, L, C); `attn_mask` as in `Attention`."""
        x = x + self.ls_1(self.ln_attn(self.attn(self.ln_1(x), attn_mask=attn_mask)))
        return x + self.ls_2(self.mlp(self.ln_2(x)))


class BlockStack(nn.Module):
    """A stack of blocks: the base of `Transformer` and `CustomTransformer`."""

    resblocks: Any  # blocks, by their index

    def __init__(self, width: int, blocks: Sequence[nn.Module], batch_first: bool) -> None:
        super().__init__()
        self.width = width
        self.layers = len(blocks)
        self.batch_first = batch_first
        self.grad_checkpointing = False
        self.resblocks = nn.ModuleList(blocks)

    def get_cast_dtype(self) -> torch.dtype:
        """Return the dtype of the linear weights, which tokens are cast to."""
        return linear_dtype(self.resblocks[0])

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """Run all blocks.

        Args:
            x: (B, L, C); if `batch_first` is False, the blocks get (L, B, C).
            attn_mask: (L, L) or (B H, L, L), added to the attention logits.

        Returns:
            (B, L, C).
        """
        if not self.batch_first:
            x = x.transpose(0, 1).contiguous()
        for block in self.resblocks:
            x = self.run_block(block, x, attn_mask)
        return x if self.batch_first else x.transpose(0, 1)

    def forward_intermediates(
        self,
        x: Tensor,
        attn_mask: Tensor | None = None,
        indices: int | list[int] | None = None,
        stop_early: bool = False,
    ) -> tuple[Tensor, list[Tensor]]:
        """Run the blocks and return the output of chosen ones.

        Args:
            x: (B, L, C).
            attn_mask: as in `forward`.
            indices: which blocks, see `take_indices`.
            stop_early: do not run the blocks behind the last one chosen.

        Returns:
            The last tokens computed (B, L, C), and those of each chosen block, in the order of the stack.
        """
        chosen = take_indices(len(self.resblocks), indices)
        last = max(chosen) if stop_early else len(self.resblocks) - 1
        if not self.batch_first:
            x = x.transpose(0, 1).contiguous()
        kept = []
        for index, block in enumerate(self.resblocks[: last + 1]):
            x = self.run_block(block, x, attn_mask)
            if index in chosen:
                kept.append(x if self.batch_first else x.transpose(0, 1))
        return (x if self.batch_first else x.transpose(0, 1)), kept

    def run_block(self, block: nn.Module, x: Tensor, attn_mask: Tensor | None) -> Tensor:
        """Run one block on tokens in its layout, with gradient checkpointing if it is enabled."""
        if self.grad_checkpointing:
            # positional, as published: a hook on the block sees the same inputs
            custom = isinstance(block, CustomResidualAttentionBlock)
            inputs = (x, attn_mask) if custom else (x, None, None, attn_mask)
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(x, attn_mask=attn_mask)

    def prune_intermediate_layers(self, indices: int | list[int] = 1) -> list[int]:
        """Remove the blocks after the last one chosen, see `take_indices`; return the chosen indices."""
        chosen = take_indices(len(self.resblocks), indices)
        self.resblocks = self.resblocks[: max(chosen) + 1]
        return chosen


class Transformer(BlockStack):
    """A stack of residual attention blocks.

    Args:
        width: C.
        layers: number of blocks.
        heads: H.
        mlp_ratio, ls_init_value, act_layer, norm_layer: as in `ResidualAttentionBlock`.
        batch_first: False passes (L, B, C) to the blocks; the stack itself always takes and returns (B, L, C).
        block_type: "default", "custom", or None for the custom block if one of the options below is set.
        qk_norm, scaled_cosine_attn, scale_heads, scale_attn_inner, scale_attn, scale_fc: options of the custom block.

    Raises:
        ConfigError: for an unknown `block_type`.
    """

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        mlp_ratio: float = 4.0,
        ls_init_value: float | None = None,
        act_layer: Activation = nn.GELU,
        norm_layer: Norm = LayerNorm,
        batch_first: bool = True,
        block_type: str | None = None,
        qk_norm: bool = False,
        scaled_cosine_attn: bool = False,
        scale_heads: bool = False,
        scale_attn_inner: bool = False,
        scale_attn: bool = False,
        scale_fc: bool = False,
    ) -> None:
        options = (qk_norm, scaled_cosine_attn, scale_heads, scale_attn_inner, scale_attn, scale_fc)
        if block_type not in (None, "default", "custom"):
            raise ConfigError(f"block_type is {block_type!r}; expected 'default' or 'custom'")
        shared = (width, heads, mlp_ratio, ls_init_value, act_layer, norm_layer)
        custom = block_type == "custom" or (block_type is None and any(options))
        blocks = [
            CustomResidualAttentionBlock(*shared, *options, batch_first=batch_first)
            if custom
            else ResidualAttentionBlock(*shared, batch_first=batch_first)
            for _ in range(layers)
        ]
        super().__init__(width, blocks, batch_first)


class CustomTransformer(BlockStack):
    """A stack of custom blocks without options.

    Args:
        block_types: the name of the class of the blocks, one for all or one for each; there is one class.

    The other arguments are those of `Transformer`.

    Raises:
        ConfigError: for another class of blocks.
    """

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        mlp_ratio: float = 4.0,
        ls_init_value: float | None = None,
        act_layer: Activation = nn.GELU,
        norm_layer: Norm = LayerNorm,
        batch_first: bool = True,
        block_types: str | list[str] = CUSTOM,
    ) -> None:
        types = [block_types] * layers if isinstance(block_types, str) else list(block_types)
        if types != [CUSTOM] * layers:
            raise ConfigError(f"block_types is {block_types!r}; expected {CUSTOM!r}")
        shared = (width, heads, mlp_ratio, ls_init_value, act_layer, norm_layer)
        blocks = [CustomResidualAttentionBlock(*shared, batch_first=batch_first) for _ in range(layers)]
        super().__init__(width, blocks, batch_first)


def init_blocks(blocks: Sequence[Any], width: int, layers: int) -> None:
    """Initialize blocks with normal weights, scaled by width and depth (Radford et al. 2021, section 2.5).

    Args:
        blocks: of width C.
        width: C.
        layers: number of blocks in the stack.
    """
    proj_std = width**-0.5 * (2 * layers) ** -0.5
    for block in blocks:
        nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5)
        nn.init.normal_(block.attn.out_proj.weight, std=proj_std)
        nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(block.mlp.c_proj.weight, std=proj_std)


def linear_dtype(block: nn.Module) -> torch.dtype:
    """Return the dtype of a block's linear weights; the lowest of its parameters if an adapter replaces `c_fc`."""
    layer = getattr(getattr(block, "mlp", None), "c_fc", None)
    before_int8 = getattr(layer, "int8_original_dtype", None)  # left by convert_int8_model_to_inference_mode
    if isinstance(before_int8, torch.dtype):
        return before_int8
    weight = getattr(layer, "weight", None)
    if isinstance(weight, Tensor) and weight.is_floating_point():
        return weight.dtype
    return lowest_precision(block)


def take_indices(count: int, indices: int | list[int] | None) -> list[int]:
    """Resolve indices of `count` layers: all (None), the last n (int), or those listed, negatives from the end.

    Raises:
        ConfigError: if an index is out of range.
    """
    if indices is None:
        return list(range(count))
    if isinstance(indices, int):
        if not 0 < indices <= count:
            raise ConfigError(f"the last {indices} layers were requested; there are {count}")
        return list(range(count - indices, count))
    for index in indices:
        if not -count <= index < count:
            raise ConfigError(f"layer {index} was requested; there are {count}, numbered 0 to {count - 1}")
    if not indices:
        raise ConfigError("an empty list of layers was requested; give None for all of them")
    return [index % count for index in indices]
