"""Text transformer tower.

Shapes: B batch, L tokens, C width, D joint embedding.
"""

import torch
from torch import Tensor, nn

from oneclip.errors import ConfigError
from oneclip.model.attention import Norm
from oneclip.model.layers import LayerNorm
from oneclip.model.text_base import TextTransformerBase
from oneclip.model.text_pooling import POOL_TYPES
from oneclip.model.transformer import Activation, Transformer, init_blocks


class TextTransformer(TextTransformerBase):
    """Transformer over token ids, pooled at the end-of-text token (Radford et al. 2021, section 2.4).

    Args:
        context_length: L at most.
        vocab_size: number of token ids.
        width: C.
        heads, layers, mlp_ratio, ls_init_value: of the transformer.
        output_dim: D; None leaves out the projection.
        embed_cls: add a learned class token behind the last position, and pool it (CoCa).
        no_causal_mask: let every token attend to those behind it.
        use_pad_mask: in a tower that is not causal, attend to no padding.
        correct_cls_mask: see `_build_additive_mask`.
        pad_id: the token id of padding.
        eos_id: the end-of-text id that `pool_type="eos"` looks for.
        pool_type: see `pool_text`.
        proj_type: "linear", or "none" for no projection.
        proj_bias: add a bias in the projection.
        act_layer, norm_layer: make the activations and the norms.
        output_tokens: also return the tokens.
        block_type: as in `Transformer`, and so are the options that follow it.

    Raises:
        ConfigError: for an unknown `pool_type` or `proj_type`.
    """

    extra: str | None = None

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
        act_layer: Activation = nn.GELU,
        norm_layer: Norm = LayerNorm,
        output_tokens: bool = False,
        block_type: str | None = None,
        qk_norm: bool = False,
        scaled_cosine_attn: bool = False,
        scale_heads: bool = False,
        scale_attn_inner: bool = False,
        scale_attn: bool = False,
        scale_fc: bool = False,
    ) -> None:
        super().__init__()
        if pool_type not in POOL_TYPES:
            raise ConfigError(
                f"pool_type of the text tower is {pool_type!r}; expected one of {', '.join(POOL_TYPES)}"
            )
        if proj_type not in ("linear", "none"):
            raise ConfigError(f"proj_type of the text tower is {proj_type!r}; expected 'linear' or 'none'")
        self.output_tokens = output_tokens
        self.context_length = context_length
        self.num_pos = context_length + int(embed_cls)
        self.vocab_size, self.width, self.heads, self.output_dim = vocab_size, width, heads, output_dim
        self.pad_id, self.eos_id, self.pool_type = pad_id, eos_id, pool_type
        self.use_pad_mask = use_pad_mask and no_causal_mask
        self.correct_cls_mask = correct_cls_mask

        self.token_embedding = nn.Embedding(vocab_size, width)
        self.register_parameter("cls_emb", nn.Parameter(torch.empty(width)) if embed_cls else None)
        self.positional_embedding = nn.Parameter(torch.empty(self.num_pos, width))
        self.transformer = Transformer(
            width,
            layers,
            heads,
            mlp_ratio,
            ls_init_value=ls_init_value,
            act_layer=act_layer,
            norm_layer=norm_layer,
            block_type=block_type,
            qk_norm=qk_norm,
            scaled_cosine_attn=scaled_cosine_attn,
            scale_heads=scale_heads,
            scale_attn_inner=scale_attn_inner,
            scale_attn=scale_attn,
            scale_fc=scale_fc,
        )
        self.ln_final = norm_layer(width)
        self.register_buffer(
            "attn_mask", None if no_causal_mask else self.build_causal_mask(), persistent=False
        )
        if proj_type == "none" or not output_dim:
            self.register_parameter("text_projection", None)
        elif proj_bias:
            self.text_projection = nn.Linear(width, output_dim)
        else:
            self.text_projection = nn.Parameter(torch.empty(width, output_dim))
        self.init_parameters()

    def init_parameters(self) -> None:
        """Initialize the weights (Radford et al. 2021, section 2.5)."""
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        if self.cls_emb is not None:
            nn.init.normal_(self.cls_emb, std=0.01)
        width = self.transformer.width
        init_blocks(self.transformer.resblocks, width, self.transformer.layers)
        if isinstance(self.text_projection, nn.Linear):
            nn.init.normal_(self.text_projection.weight, std=width**-0.5)
            nn.init.zeros_(self.text_projection.bias)
        elif self.text_projection is not None:
            nn.init.normal_(self.text_projection, std=width**-0.5)

    def build_causal_mask(self) -> Tensor:
        """Build the mask that is added to the attention logits, see `causal_mask`."""
        return causal_mask(self.num_pos)

    def pool_settings(self) -> tuple[str, int]:
        return self.pool_type, self.eos_id

    def forward(self, text: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Encode texts.

        Args:
            text: (B, L) int64 token ids, padded after the end-of-text token.

        Returns:
            (B, D) features, not normalized; with `output_tokens` also the tokens (B, L, C).

        Raises:
            ShapeError: if L exceeds the table of positions, or is less in a tower that reads padding.
        """
        if self.output_tokens:
            return self._encode(text)
        return self._encode(self.trim_unseen(text))[0]

    def forward_intermediates(
        self,
        text: Tensor,
        indices: int | list[int] | None = None,
        stop_early: bool = False,
        normalize_intermediates: bool = False,
        intermediates_only: bool = False,
        output_fmt: str = "NLC",
        output_extra_tokens: bool = False,
    ) -> dict[str, Tensor | list[Tensor]]:
        """Encode texts and return the tokens of chosen blocks.

        Args:
            text: (B, L) token ids; all L positions are computed.
            indices: which blocks, see `take_indices`.
            stop_early: with `intermediates_only`, compute nothing past the last block chosen.
            normalize_intermediates: apply the tower's final norm to them.
            intermediates_only: leave out `text_features`.
            output_fmt: "NLC", tokens (B, L, C), is the only format.
            output_extra_tokens: also return the class tokens (B, 1, C), if the tower has them.

        Returns:
            `text_intermediates`, `text_intermediates_suffix` if requested, and `text_features` (B, D) unless left out.
        """
        return self._text_intermediates(
            text,
            indices,
            stop_early,
            normalize_intermediates,
            intermediates_only,
            output_fmt,
            output_extra_tokens,
        )

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what the intermediates of chosen blocks do not need; see `VisionTransformer`'s method."""
        chosen = self.transformer.prune_intermediate_layers(indices)
        if prune_norm:
            self.ln_final = nn.Identity()
        if prune_head:
            self.text_projection = None
        return chosen

    def lock(self, unlocked_layers: int = 0, freeze_layer_norm: bool = True) -> None:
        """Freeze the tower except its last groups: embeddings, each block, projection.

        Args:
            unlocked_layers: how many groups stay trainable, from the end; the final norm belongs to the last block.
            freeze_layer_norm: False leaves the layer norms of the frozen groups trainable.
        """
        self._lock_text(unlocked_layers, freeze_layer_norm)

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Group the parameters by layer: embeddings, each block; final norm and projection are left out."""
        return self._text_layer_groups()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of storing its activations."""
        self.transformer.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Name the parameters that weight decay should skip, in addition to vectors and scalars."""
        return {"positional_embedding"} | ({"cls_emb"} if self.cls_emb is not None else set())


def causal_mask(length: int) -> Tensor:
    """Build a mask (L, L): zero where a token may attend, minus infinity where it may not."""
    return torch.full((length, length), float("-inf")).triu_(1)
