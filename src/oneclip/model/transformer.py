"""The one transformer that serves both towers: tokens in, tokens out.

Shapes: B batch, L tokens, C width.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from oneclip.config import CLIPTextCfg, CLIPVisionCfg
from oneclip.errors import ConfigError
from oneclip.model.attention import Attention
from oneclip.model.layers import LayerNorm, LayerScale, make_activation
from oneclip.model.scripting import unscripted

Norm = Callable[[int], nn.Module]


@dataclass
class BlockCfg:
    """What every block of a transformer has in common; see `Attention` for the switches."""

    width: int
    heads: int
    mlp_ratio: float = 4.0
    ls_init_value: float | None = None
    qk_norm: bool = False
    scaled_cosine_attn: bool = False
    scale_heads: bool = False
    scale_attn_inner: bool = False
    scale_attn: bool = False  # norm after attention (Shleifer et al. 2021, NormFormer)
    scale_fc: bool = False  # norm inside the MLP (likewise)
    quick_gelu: bool = False
    act_kwargs: dict[str, str] | None = None
    norm_layer: Norm = LayerNorm

    @classmethod
    def of_tower(cls, cfg: CLIPVisionCfg | CLIPTextCfg, heads: int, quick_gelu: bool) -> "BlockCfg":
        """The blocks that a tower's configuration asks for.

        Raises:
            ConfigError: on an unknown block type, or arguments that QuickGELU does not take.
        """
        if cfg.block_type not in (None, "default", "custom"):
            raise ConfigError(f"block_type is {cfg.block_type!r}; expected 'default' or 'custom'")
        if quick_gelu and cfg.act_kwargs:
            raise ConfigError(f"QuickGELU takes no arguments, but act_kwargs is {cfg.act_kwargs}")
        switches = {name: getattr(cfg, name) for name in _SWITCHES} if cfg.block_type != "default" else {}
        return cls(
            width=cfg.width,
            heads=heads,
            mlp_ratio=cfg.mlp_ratio,
            ls_init_value=cfg.ls_init_value,
            quick_gelu=quick_gelu,
            act_kwargs=cfg.act_kwargs,
            norm_layer=partial(LayerNorm, **(cfg.norm_kwargs or {})),
            **switches,
        )


_SWITCHES = ("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc")


class ResidualAttentionBlock(nn.Module):
    """Pre-norm attention and MLP, each on a residual branch."""

    def __init__(self, cfg: BlockCfg) -> None:
        super().__init__()
        width, hidden = cfg.width, int(cfg.width * cfg.mlp_ratio)
        self.ln_1 = cfg.norm_layer(width)
        self.attn = Attention(
            width,
            cfg.heads,
            qk_norm=cfg.qk_norm,
            scaled_cosine=cfg.scaled_cosine_attn,
            scale_heads=cfg.scale_heads,
            inner_norm=cfg.scale_attn_inner,
            norm_layer=cfg.norm_layer,
        )
        self.ln_attn = cfg.norm_layer(width) if cfg.scale_attn else nn.Identity()
        self.ls_1 = LayerScale(width, cfg.ls_init_value) if cfg.ls_init_value is not None else nn.Identity()
        self.ln_2 = cfg.norm_layer(width)
        self.mlp = nn.Sequential(
            OrderedDict[str, nn.Module](
                c_fc=nn.Linear(width, hidden),
                gelu=make_activation(cfg.quick_gelu, cfg.act_kwargs),
                ln=cfg.norm_layer(hidden) if cfg.scale_fc else nn.Identity(),
                c_proj=nn.Linear(hidden, width),
            )
        )
        self.ls_2 = LayerScale(width, cfg.ls_init_value) if cfg.ls_init_value is not None else nn.Identity()

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """(B, L, C) -> (B, L, C); `attn_mask` as in `Attention`."""
        x = self.feed_forward(self.attend(x, attn_mask))
        return x

    def attend(self, x: Tensor, attn_mask: Tensor | None) -> Tensor:
        """The branch in which tokens see each other, (B, L, C) -> (B, L, C)."""
        x = x + self.ls_1(self.ln_attn(self.attn(self.ln_1(x), attn_mask=attn_mask)))
        return x

    def feed_forward(self, x: Tensor) -> Tensor:
        """The branch in which each token is by itself, (B, L, C) -> (B, L, C)."""
        x = x + self.ls_2(self.mlp(self.ln_2(x)))
        return x


class Transformer(nn.Module):
    """A stack of residual attention blocks.

    Args:
        cfg: the shape of every block.
        layers: how many.
    """

    if TYPE_CHECKING:
        resblocks: Any  # blocks, by their index

    def __init__(self, cfg: BlockCfg, layers: int) -> None:
        super().__init__()
        self.width = cfg.width
        self.layers = layers
        self.grad_checkpointing = False
        self.resblocks = nn.ModuleList([ResidualAttentionBlock(cfg) for _ in range(layers)])

    def get_cast_dtype(self) -> torch.dtype:
        """The dtype of the linear weights, which token activations are cast to."""
        dtype: torch.dtype = self.resblocks[0].mlp.c_fc.weight.dtype
        return dtype

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """(B, L, C) -> (B, L, C); `attn_mask` is added to the attention logits, broadcastable to (B, H, L, L)."""
        for block in self.resblocks:
            if not torch.jit.is_scripting() and self.grad_checkpointing:
                x = checkpoint(block, x, attn_mask, use_reentrant=False)
            else:
                x = block(x, attn_mask=attn_mask)
        return x

    @unscripted
    def forward_intermediates(
        self,
        x: Tensor,
        attn_mask: Tensor | None = None,
        indices: int | list[int] | None = None,
        stop_early: bool = False,
    ) -> tuple[Tensor, list[Tensor]]:
        """Run the stack and keep what chosen blocks gave.

        Args:
            x: (B, L, C).
            attn_mask: as in `forward`.
            indices: which blocks, see `take_indices`.
            stop_early: do not run what follows the last block chosen.

        Returns:
            The last tokens computed (B, L, C), and those of each chosen block, in the order of the stack.
        """
        chosen = take_indices(len(self.resblocks), indices)
        last = max(chosen) if stop_early else len(self.resblocks) - 1
        kept = []
        for index, block in enumerate(self.resblocks[: last + 1]):
            if self.grad_checkpointing:
                x = checkpoint(block, x, attn_mask, use_reentrant=False)
            else:
                x = block(x, attn_mask=attn_mask)
            if index in chosen:
                kept.append(x)
        return x, kept

    def init_parameters(self) -> None:
        """Normal weights scaled by width and depth, as the text tower of Radford et al. 2021 begins training."""
        for block in self.resblocks:
            self.init_block(block)

    def init_block(self, block: nn.Module) -> None:
        """One block of `init_parameters`."""
        assert isinstance(block, ResidualAttentionBlock)
        proj_std = self.width**-0.5 * (2 * self.layers) ** -0.5
        nn.init.normal_(block.attn.in_proj_weight, std=self.width**-0.5)
        nn.init.normal_(block.attn.out_proj.weight, std=proj_std)
        nn.init.normal_(block.mlp.get_parameter("c_fc.weight"), std=(2 * self.width) ** -0.5)
        nn.init.normal_(block.mlp.get_parameter("c_proj.weight"), std=proj_std)


def take_indices(count: int, indices: int | list[int] | None) -> list[int]:
    """Which of `count` layers are meant: all (None), the last n (int), or those listed, negatives from the end.

    Raises:
        ConfigError: if an index is out of range.
    """
    if indices is None:
        return list(range(count))
    if isinstance(indices, int):
        if not 0 < indices <= count:
            raise ConfigError(f"the last {indices} layers were asked for; there are {count}")
        return list(range(count - indices, count))
    for index in indices:
        if not -count <= index < count:
            raise ConfigError(f"layer {index} was asked for; there are {count}, numbered 0 to {count - 1}")
    if not indices:
        raise ConfigError("an empty list of layers was asked for; give None for all of them")
    return [index % count for index in indices]
