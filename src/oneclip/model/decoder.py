"""Captioning decoder: tokens of a caption and of its picture to logits of each next token.

Shapes: B batch, L tokens of the caption, S tokens of the picture, C width, V vocabulary.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from oneclip.config import MultimodalCfg
from oneclip.errors import ConfigError, ShapeError
from oneclip.model.scripting import unscripted
from oneclip.model.transformer import BlockCfg, ResidualAttentionBlock, Transformer


class CrossAttentionBlock(ResidualAttentionBlock):
    """Pre-norm attention from the tokens of a caption to those of a picture, and MLP, each on a residual branch."""

    def __init__(self, cfg: BlockCfg) -> None:
        super().__init__(cfg)
        self.ln_1_kv = cfg.norm_layer(cfg.width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:  # type: ignore[override]
        """(B, L, C) and (B, S, C) -> (B, L, C)."""
        x = x + self.ls_1(self.attn(self.ln_1(x), self.ln_1_kv(context)))
        x = self.feed_forward(x)
        return x


class MultimodalTransformer(Transformer):
    """CoCa's decoder: causal blocks over the caption, each followed by one that looks at the picture (Yu et al. 2022).

    All weights begin as those of the text tower; the published package leaves its projection unset.

    Args:
        cfg: width, depth and context of the decoder. Its `vocab_size` is not used: V is the text tower's.
        vocab_size: V.
        quick_gelu: the activation of OpenAI's weights.
    """

    if TYPE_CHECKING:
        cross_attn: Any  # blocks, by their index
        attn_mask: Tensor

    def __init__(self, cfg: MultimodalCfg, vocab_size: int, quick_gelu: bool = False) -> None:
        blocks = BlockCfg(cfg.width, cfg.heads, cfg.mlp_ratio, cfg.ls_init_value, quick_gelu=quick_gelu)
        super().__init__(blocks, cfg.layers)
        self.context_length = cfg.context_length
        self.cross_attn = nn.ModuleList([CrossAttentionBlock(blocks) for _ in range(cfg.layers)])
        mask = torch.full((cfg.context_length, cfg.context_length), float("-inf")).triu_(1)
        self.register_buffer("attn_mask", mask, persistent=False)
        self.ln_final = blocks.norm_layer(cfg.width)
        self.text_projection = nn.Parameter(torch.empty(cfg.width, vocab_size))
        self.init_parameters()

    def forward(self, image_embs: Tensor, text_embs: Tensor) -> Tensor:  # type: ignore[override]
        """Predict the token that follows each token.

        Args:
            image_embs: (B, S, C) tokens of the pictures.
            text_embs: (B, L, C) tokens of the captions.

        Returns:
            (B, L, V) logits.

        Raises:
            ShapeError: if L exceeds `context_length`, or a width is not C.
        """
        return self.predict(self.read(image_embs, text_embs))

    def read(self, image_embs: Tensor, text_embs: Tensor) -> Tensor:
        """All blocks: (B, S, C) and (B, L, C) -> (B, L, C)."""
        if not torch.jit.is_scripting():
            self._check(image_embs, text_embs)
        length = text_embs.shape[1]
        mask = self.attn_mask[:length, :length]
        x = text_embs
        for block, cross in zip(self.resblocks, self.cross_attn):  # noqa: B905  # TorchScript knows no `strict`
            if not torch.jit.is_scripting() and self.grad_checkpointing:
                x = checkpoint(block, x, mask, use_reentrant=False)
                x = checkpoint(cross, x, image_embs, use_reentrant=False)
            else:
                x = cross(block(x, attn_mask=mask), image_embs)
        return x

    def predict(self, x: Tensor) -> Tensor:
        """Tokens that `read` gave, (..., C), to logits (..., V)."""
        x = self.ln_final(x) @ self.text_projection
        return x

    @unscripted
    def forward_intermediates(self, *arguments: Any, **options: Any) -> Any:
        """Not offered: a decoder's tokens are those of a caption and a picture at once.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "the decoder gives no intermediates: register hooks on its resblocks and cross_attn"
        )

    @unscripted
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        self.grad_checkpointing = enable

    @unscripted
    def init_parameters(self) -> None:
        super().init_parameters()
        for block in self.cross_attn:
            self.init_block(block)
        nn.init.normal_(self.text_projection, std=self.width**-0.5)

    @unscripted
    def _check(self, image_embs: Tensor, text_embs: Tensor) -> None:
        for name, tokens in (("pictures", image_embs), ("captions", text_embs)):
            if tokens.ndim != 3 or tokens.shape[2] != self.width:
                raise ShapeError(
                    f"the decoder takes tokens of {name} (B, L, {self.width}); found {tuple(tokens.shape)}"
                )
        if text_embs.shape[1] > self.context_length:
            raise ShapeError(
                f"the decoder takes captions of up to {self.context_length} tokens; found {text_embs.shape[1]}"
            )
