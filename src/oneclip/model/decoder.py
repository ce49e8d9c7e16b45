"""Captioning decoder of CoCa: logits of the next token, from the tokens of a caption and of its image.

Shapes: B batch, L tokens of the caption, S tokens of the image, C width, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from oneclip.errors import ConfigError, ShapeError
from oneclip.model.attention import Norm
from oneclip.model.layers import LayerNorm
from oneclip.model.text import causal_mask
from oneclip.model.transformer import Activation, ResidualAttentionBlock, Transformer, init_blocks


class MultimodalTransformer(Transformer):
    """CoCa's decoder: causal blocks over the caption, each followed by one that attends to the image (Yu et al. 2022).

    Args:
        width: C.
        layers: number of pairs of blocks.
        heads: heads of each block.
        context_length: L at most.
        mlp_ratio, ls_init_value, act_layer, norm_layer: as in `ResidualAttentionBlock`.
        output_dim: V.
        batch_first: False passes (L, B, C) to the blocks; the decoder itself always takes and returns (B, L, C).
    """

    cross_attn: Any  # blocks, by their index
    attn_mask: Tensor

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        context_length: int = 77,
        mlp_ratio: float = 4.0,
        ls_init_value: float | None = None,
        act_layer: Activation = nn.GELU,
        norm_layer: Norm = LayerNorm,
        output_dim: int = 512,
        batch_first: bool = True,
    ) -> None:
        shared = (mlp_ratio, ls_init_value, act_layer, norm_layer)
        super().__init__(width, layers, heads, *shared, batch_first)
        self.context_length = context_length
        self.cross_attn = nn.ModuleList(
            [
                ResidualAttentionBlock(
                    width, heads, *shared, is_cross_attention=True, batch_first=batch_first
                )
                for _ in range(layers)
            ]
        )
        self.register_buffer("attn_mask", self.build_attention_mask(), persistent=False)
        self.ln_final = norm_layer(width)
        self.text_projection = nn.Parameter(torch.empty(width, output_dim))
        # the published package leaves it uninitialized; random numbers drawn later must be the same as there
        with torch.random.fork_rng(devices=[self.text_projection.device] * self.text_projection.is_cuda):
            nn.init.normal_(self.text_projection, std=width**-0.5)

    def forward(self, image_embs: Tensor, text_embs: Tensor) -> Tensor:  # type: ignore[override]
        """Predict the token that follows each token.

        Args:
            image_embs: (B, S, C) tokens of the images.
            text_embs: (B, L, C) tokens of the captions.

        Returns:
            (B, L, V) logits.

        Raises:
            ShapeError: if L exceeds `context_length`, or a width is not C.
        """
        return self.predict(self.read(image_embs, text_embs))

    def read(self, image_embs: Tensor, text_embs: Tensor) -> Tensor:
        """Run all blocks: (B, S, C) and (B, L, C) -> (B, L, C)."""
        self._check(image_embs, text_embs)
        length = text_embs.shape[1]
        mask = self.attn_mask[:length, :length]
        x = text_embs
        if not self.batch_first:
            image_embs, x = image_embs.transpose(0, 1), x.transpose(0, 1)
        for block, cross in zip(self.resblocks, self.cross_attn, strict=True):
            if self.grad_checkpointing:
                x = checkpoint(block, x, None, None, mask, use_reentrant=False)
                x = checkpoint(cross, x, image_embs, image_embs, None, use_reentrant=False)
            else:
                x = cross(block(x, attn_mask=mask), k_x=image_embs, v_x=image_embs)
        return x if self.batch_first else x.transpose(0, 1)

    def predict(self, x: Tensor) -> Tensor:
        """Compute logits (..., V) from the tokens (..., C) that `read` returned."""
        x = self.ln_final(x)
        return x if self.text_projection is None else x @ self.text_projection

    def build_attention_mask(self) -> Tensor:
        """Build the causal mask: (context, context), zero where a token may attend and minus infinity elsewhere."""
        return causal_mask(self.context_length)

    def forward_intermediates(
        self,
        x: Tensor,
        attn_mask: Tensor | None = None,
        indices: int | list[int] | None = None,
        stop_early: bool = False,
    ) -> tuple[Tensor, list[Tensor]]:
        """Raise an error: the tokens of a decoder depend on a caption and an image together.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "the decoder does not return intermediates: register hooks on its resblocks and cross_attn"
        )

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of storing its activations."""
        self.grad_checkpointing = enable

    def init_parameters(self) -> None:
        """Initialize the weights as those of a text tower; as published, building the decoder does not call this."""
        for blocks in (self.resblocks, self.cross_attn):
            init_blocks(blocks, self.width, self.layers)
        if self.text_projection is not None:
            nn.init.normal_(self.text_projection, std=self.width**-0.5)

    def _check(self, image_embs: Tensor, text_embs: Tensor) -> None:
        for name, tokens in (("images", image_embs), ("captions", text_embs)):
            if tokens.ndim != 3 or tokens.shape[2] != self.width:
                raise ShapeError(
                    f"the decoder takes tokens of {name} (B, L, {self.width}); found {tuple(tokens.shape)}"
                )
        if text_embs.shape[1] > len(self.attn_mask):
            raise ShapeError(
                f"the decoder takes captions of up to {len(self.attn_mask)} tokens; found {text_embs.shape[1]}"
            )
