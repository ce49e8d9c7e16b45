"""`open_clip.transformer`: towers and their parts, built of the published lists of arguments.

They are those of `oneclip.model`, which builds them of configurations, and recognise what it builds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from torch import Tensor, nn

from oneclip import model as ours
from oneclip.config import CLIPTextCfg, CLIPVisionCfg, MultimodalCfg
from oneclip.errors import ConfigError
from oneclip.model import AttentionalPooler, LayerNorm, PatchDropout, QuickGELU, decoder
from oneclip.model.pooling import POOL_TYPES, pool_text
from open_clip.blocks import (
    Attention,
    CustomResidualAttentionBlock,
    Layer,
    LayerNormFp32,
    LayerScale,
    Published,
    ResidualAttentionBlock,
    put_layers,
    switches,
)

__all__ = [
    "Attention",
    "AttentionalPooler",
    "CustomResidualAttentionBlock",
    "CustomTransformer",
    "LayerNorm",
    "LayerNormFp32",
    "LayerScale",
    "MultimodalTransformer",
    "PatchDropout",
    "QuickGELU",
    "ResidualAttentionBlock",
    "TextTransformer",
    "Transformer",
    "VisionTransformer",
    "lock_text_tower",
    "text_global_pool",
]


class Transformer(ours.Transformer, metaclass=Published):
    """A stack of blocks. It takes and gives (B, L, C), whatever `batch_first` says, as there."""

    kind = ours.Transformer

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        mlp_ratio: float = 4.0,
        ls_init_value: float | None = None,
        act_layer: Layer = nn.GELU,
        norm_layer: Layer = LayerNorm,
        batch_first: bool = True,
        block_type: str | None = None,
        qk_norm: bool = False,
        scaled_cosine_attn: bool = False,
        scale_heads: bool = False,
        scale_attn_inner: bool = False,
        scale_attn: bool = False,
        scale_fc: bool = False,
    ) -> None:
        asked = {
            "qk_norm": qk_norm,
            "scaled_cosine_attn": scaled_cosine_attn,
            "scale_heads": scale_heads,
            "scale_attn_inner": scale_attn_inner,
            "scale_attn": scale_attn,
            "scale_fc": scale_fc,
        }
        cfg = ours.BlockCfg(width, heads, mlp_ratio, ls_init_value, norm_layer=norm_layer)
        for name, value in switches(asked, block_type).items():
            setattr(cfg, name, value)
        super().__init__(cfg, layers)
        put_layers(self, act_layer, LayerNorm)
        self.batch_first = batch_first


class CustomTransformer(Transformer):
    """A stack of custom blocks without switches."""

    kind = ours.Transformer

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        mlp_ratio: float = 4.0,
        ls_init_value: float | None = None,
        act_layer: Layer = nn.GELU,
        norm_layer: Layer = LayerNorm,
        batch_first: bool = True,
        block_types: str | Sequence[str] = "CustomResidualAttentionBlock",
    ) -> None:
        types = [block_types] * layers if isinstance(block_types, str) else list(block_types)
        if types != ["CustomResidualAttentionBlock"] * layers:
            raise ConfigError(f"block_types is {block_types!r}; expected 'CustomResidualAttentionBlock'")
        super().__init__(
            width, layers, heads, mlp_ratio, ls_init_value, act_layer, norm_layer, batch_first, "custom"
        )


class VisionTransformer(ours.VisionTransformer, metaclass=Published):
    """Patches and a class token through a transformer, pooled and projected to `output_dim`."""

    kind = ours.VisionTransformer

    def __init__(
        self,
        image_size: int | tuple[int, int],
        patch_size: int | tuple[int, int],
        width: int,
        layers: int,
        heads: int,
        mlp_ratio: float,
        ls_init_value: float | None = None,
        attentional_pool: bool | str = False,
        attn_pooler_queries: int = 256,
        attn_pooler_heads: int = 8,
        output_dim: int = 512,
        patch_dropout: float = 0.0,
        no_ln_pre: bool = False,
        pos_embed_type: str = "learnable",
        pool_type: str = "tok",
        final_ln_after_pool: bool = False,
        act_layer: Layer = nn.GELU,
        norm_layer: Layer = LayerNorm,
        output_tokens: bool = False,
        block_type: str | None = None,
        qk_norm: bool = False,
        scaled_cosine_attn: bool = False,
        scale_heads: bool = False,
        scale_attn_inner: bool = False,
        scale_attn: bool = False,
        scale_fc: bool = False,
    ) -> None:
        arguments = {
            key: value for key, value in locals().items() if key in CLIPVisionCfg.__dataclass_fields__
        }
        super().__init__(CLIPVisionCfg(**arguments, head_width=width // heads), output_dim)
        put_layers(self, act_layer, norm_layer)


class TextTransformer(ours.TextTransformer, metaclass=Published):
    """Token ids through a transformer, pooled and projected to `output_dim`."""

    kind = ours.TextTransformer

    def __init__(
        self,
        context_length: int = 77,
        vocab_size: int = 49408,
        width: int = 512,
        heads: int = 8,
        layers: int = 12,
        mlp_ratio: float = 4.0,
        ls_init_value: float | None = None,
        output_dim: int | None = 512,
        embed_cls: bool = False,
        no_causal_mask: bool = False,
        use_pad_mask: bool = False,
        correct_cls_mask: bool = False,
        pad_id: int = 0,
        eos_id: int = 2,
        pool_type: str = "argmax",
        proj_type: str = "linear",
        proj_bias: bool = False,
        act_layer: Layer = nn.GELU,
        norm_layer: Layer = LayerNorm,
        output_tokens: bool = False,
        block_type: str | None = None,
        qk_norm: bool = False,
        scaled_cosine_attn: bool = False,
        scale_heads: bool = False,
        scale_attn_inner: bool = False,
        scale_attn: bool = False,
        scale_fc: bool = False,
    ) -> None:
        arguments = _fields_of(CLIPTextCfg, locals())
        super().__init__(
            CLIPTextCfg(**arguments),
            output_dim,
            use_pad_mask=use_pad_mask,
            correct_cls_mask=correct_cls_mask,
        )
        put_layers(self, act_layer, norm_layer)


class MultimodalTransformer(decoder.MultimodalTransformer, metaclass=Published):
    """Tokens of a caption and of its picture to logits of each next token; `output_dim` is the vocabulary.

    It takes and gives (B, L, C), whatever `batch_first` says, as there.
    """

    kind = decoder.MultimodalTransformer

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        context_length: int = 77,
        mlp_ratio: float = 4.0,
        ls_init_value: float | None = None,
        act_layer: Layer = nn.GELU,
        norm_layer: Layer = LayerNorm,
        output_dim: int = 512,
        batch_first: bool = True,
    ) -> None:
        super().__init__(MultimodalCfg(**_fields_of(MultimodalCfg, locals())), output_dim)
        put_layers(self, act_layer, norm_layer)
        self.batch_first = batch_first


def text_global_pool(
    x: Tensor, text: Tensor | None = None, pool_type: str = "argmax", eos_token_id: int | None = None
) -> Tensor:
    """Choose each caption's token: (B, L, C) to (B, C), or all of them when `pool_type` is "none".

    Raises:
        ConfigError: for an unknown `pool_type`, or one that needs the ids, or the end-of-text id, without them.
    """
    if pool_type not in POOL_TYPES:
        raise ConfigError(f"pool_type is {pool_type!r}; expected one of {', '.join(POOL_TYPES)}")
    if pool_type in ("argmax", "eos") and (text is None or (pool_type == "eos" and eos_token_id is None)):
        raise ConfigError(f"pool_type {pool_type!r} looks for a token: give text, and for 'eos' eos_token_id")
    ids = text if text is not None else x[..., 0]  # the other kinds do not look at them
    return pool_text(x, ids, pool_type, eos_token_id if eos_token_id is not None else -1)


def lock_text_tower(model: Any, unlocked_layers: int = 0) -> None:
    """Freeze a text tower, or that of a model, but for its last groups of layers."""
    getattr(model, "text", model)._lock_text(unlocked_layers, freeze_layer_norm=True)


def _fields_of(cfg: type, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Those arguments of a constructor that are fields of a configuration, by the same names."""
    return {field.name: arguments[field.name] for field in fields(cfg) if field.name in arguments}
