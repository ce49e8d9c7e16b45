"""Text tower: token ids to one feature vector a caption.

Shapes: B batch, L tokens, C width, H heads, D joint embedding.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from oneclip.config import CLIPTextCfg
from oneclip.errors import ConfigError, ShapeError
from oneclip.model.captions import are_at_hand, check_vocabulary, may_trim, without_padding
from oneclip.model.locking import Part, unlock_last
from oneclip.model.pictures import check_output_format
from oneclip.model.pooling import POOL_TYPES, pool_text, pooled_positions
from oneclip.model.scripting import unscripted
from oneclip.model.transformer import BlockCfg, Transformer


class TextTower(nn.Module):
    """What the stand-alone text tower and the flat `CLIP` share: the parameters and the forward of a text tower.

    A subclass calls `_init_text` in its constructor; the parameters are then its own, under their published names.
    """

    __constants__ = ("projects_by_layer",)  # so that TorchScript compiles only the branch that holds

    if TYPE_CHECKING:  # TorchScript reads annotations of a class, and knows no modules among them
        transformer: Transformer
        token_embedding: nn.Embedding
        positional_embedding: nn.Parameter
        ln_final: nn.Module
        text_projection: Any  # a matrix (C, D), a linear layer, or None
        cls_emb: nn.Parameter | None
        attn_mask: Tensor | None

    def _init_text(
        self,
        cfg: CLIPTextCfg,
        embed_dim: int | None,
        quick_gelu: bool,
        use_pad_mask: bool = False,
        correct_cls_mask: bool = False,
    ) -> None:
        if cfg.pool_type not in POOL_TYPES:
            raise ConfigError(
                f"pool_type of the text tower is {cfg.pool_type!r}; expected one of {', '.join(POOL_TYPES)}"
            )
        if cfg.proj_type not in ("linear", "none"):
            raise ConfigError(
                f"proj_type of the text tower is {cfg.proj_type!r}; expected 'linear' or 'none'"
            )
        blocks = BlockCfg.of_tower(cfg, cfg.heads, quick_gelu)
        self.context_length = cfg.context_length
        self.vocab_size = cfg.vocab_size
        self.text_pool_type = cfg.pool_type
        self.text_eos_id = cfg.eos_id
        self.pad_id = cfg.pad_id
        self.use_pad_mask = use_pad_mask and cfg.no_causal_mask
        self.correct_cls_mask = correct_cls_mask

        positions = cfg.context_length + int(cfg.embed_cls)
        self.token_embedding = nn.Embedding(cfg.vocab_size, cfg.width)
        self.register_parameter("cls_emb", nn.Parameter(torch.empty(cfg.width)) if cfg.embed_cls else None)
        self.positional_embedding = nn.Parameter(torch.empty(positions, cfg.width))
        self.transformer = self._make_text_transformer(blocks, cfg.layers)
        self.ln_final = blocks.norm_layer(cfg.width)
        causal = None if cfg.no_causal_mask else torch.full((positions, positions), float("-inf")).triu_(1)
        self.register_buffer("attn_mask", causal, persistent=False)
        self.projects_by_layer = cfg.proj_bias and cfg.proj_type == "linear" and bool(embed_dim)
        if cfg.proj_type == "none" or not embed_dim:
            self.register_parameter("text_projection", None)
        elif cfg.proj_bias:
            self.text_projection = nn.Linear(cfg.width, embed_dim)
        else:
            self.text_projection = nn.Parameter(torch.empty(cfg.width, embed_dim))
        self._init_text_parameters()

    @unscripted
    def _make_text_transformer(self, blocks: BlockCfg, layers: int) -> Transformer:
        return Transformer(blocks, layers)

    @unscripted
    def _init_text_parameters(self) -> None:
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        if self.cls_emb is not None:
            nn.init.normal_(self.cls_emb, std=0.01)
        self.transformer.init_parameters()
        std = self.transformer.width**-0.5
        if isinstance(self.text_projection, nn.Linear):
            nn.init.normal_(self.text_projection.weight, std=std)
            nn.init.zeros_(self.text_projection.bias)
        elif self.text_projection is not None:
            nn.init.normal_(self.text_projection, std=std)

    def _encode(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Captions (B, L) to features (B, D), not normalised, and their tokens (B, L, C)."""
        x, mask = self._embed_text(text)
        x = self._run_text_blocks(x, mask)
        return self._pool_text(x, text)

    def _embed_text(self, text: Tensor) -> tuple[Tensor, Tensor | None]:
        """Captions (B, L) to tokens (B, L, C), and what is added to the attention logits, if anything.

        A class token comes behind them, on the last positional row however short the captions are: (B, L + 1, C). It
        sees the first padding of each caption, see `_padding_mask`, so captions shorter than the context get one more.
        """
        if not torch.jit.is_scripting():
            self._check_text(text)
        if self.cls_emb is not None and text.shape[1] < self.context_length:
            text = torch.cat([text, torch.full_like(text[:, :1], self.pad_id)], dim=1)
        dtype = self.transformer.get_cast_dtype()
        x = self.token_embedding(text).to(dtype)  # (B, L, C)
        positions = self.positional_embedding[: text.shape[1]]
        if self.cls_emb is not None:
            class_token = self.cls_emb.to(dtype).expand(x.shape[0], 1, -1)
            x = torch.cat([x, class_token], dim=1)
            positions = torch.cat([positions, self.positional_embedding[-1:]])
        x = x + positions.to(dtype)
        mask: Tensor | None = None
        if self.attn_mask is not None:
            mask = self.attn_mask[: x.shape[1], : x.shape[1]]
        if self.use_pad_mask or self.cls_emb is not None:
            padding = self._padding_mask(text, dtype)
            mask = padding if mask is None else mask.to(dtype) + padding
        return x, mask

    def _run_text_blocks(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, L, C) -> (B, L, C)."""
        x = self.transformer(x, attn_mask=mask)
        return x

    def _padding_mask(self, text: Tensor, dtype: torch.dtype) -> Tensor:
        """(B, 1, 1, L or L + 1): minus infinity where a key is padding, zero elsewhere.

        Published CoCa weights were trained with the class token's place at the front of this mask, one off from where
        the token stands: each key is masked if the one before it is padding. `correct_cls_mask` puts it at the end.
        """
        real = text != self.pad_id
        if self.cls_emb is not None:
            always = torch.ones_like(real[:, :1])
            real = torch.cat([real, always] if self.correct_cls_mask else [always, real], dim=1)
        mask = torch.zeros(real.shape, dtype=dtype, device=text.device).masked_fill(~real, float("-inf"))
        return mask[:, None, None, :]

    def _pool_text(self, x: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, L, C) to features (B, D), and the tokens that go with them."""
        if self.cls_emb is not None:  # pooled whatever pool_type says, and normalised after
            pooled, tokens = self.ln_final(x[:, -1]), x[:, : text.shape[1]]
        else:
            tokens = self.ln_final(x)
            pooled = pool_text(tokens, text, self.text_pool_type, self.text_eos_id)
        if self.projects_by_layer:
            pooled = self.text_projection(pooled)
        elif self.text_projection is not None:
            pooled = pooled @ self.text_projection
        return pooled, tokens

    @unscripted
    def _text_intermediates(
        self,
        text: Tensor,
        indices: int | list[int] | None,
        stop_early: bool,
        normalize_intermediates: bool,
        intermediates_only: bool,
        output_fmt: str,
        output_extra_tokens: bool,
    ) -> dict[str, Tensor | list[Tensor]]:
        check_output_format(output_fmt, ("NLC",))
        x, mask = self._embed_text(text)
        x, kept = self.transformer.forward_intermediates(x, mask, indices, stop_early and intermediates_only)
        if normalize_intermediates:
            kept = [self.ln_final(y) for y in kept]
        output: dict[str, Tensor | list[Tensor]] = {}
        if self.cls_emb is not None:
            if output_extra_tokens:
                output["text_intermediates_suffix"] = [y[:, -1:] for y in kept]
            kept = [y[:, : text.shape[1]] for y in kept]
        output["text_intermediates"] = kept
        if not intermediates_only:
            output["text_features"], _ = self._pool_text(x, text)
        return output

    @unscripted
    def trim(self, text: Tensor) -> Tensor:
        """Cut off the token ids that cannot change the features: those behind the last position that is pooled.

        Exact, because in a causal tower no position sees what follows it; and a class token sees no padding but the
        first, which `_embed_text` puts back. Where neither holds, or the ids are not in the CPU's memory (finding the
        length would stall the device), they are given back whole.

        Args:
            text: (B, L) token ids.

        Returns:
            (B, L') with L' <= L.

        Raises:
            ShapeError: if L exceeds `context_length`, or is less in a tower that reads the padding, too.
            TokenRangeError: if an id is outside the vocabulary.
        """
        self._check_text(text)
        causal = self.attn_mask is not None and not self.use_pad_mask
        known = are_at_hand(text)
        if known:
            check_vocabulary(text, self.vocab_size)
        if known and self.cls_emb is not None:
            return without_padding(text, self.pad_id)
        if not causal or not known:
            return text
        if self.text_pool_type == "first":
            return text[:, :1]
        if self.text_pool_type not in ("argmax", "eos"):
            return text
        return text[:, : 1 + int(pooled_positions(text, self.text_pool_type, self.text_eos_id).max())]

    @unscripted
    def _lock_text(self, unlocked_layers: int, freeze_layer_norm: bool) -> None:
        blocks: list[Part] = list(self.transformer.resblocks)
        groups: list[list[Part]] = [
            [self.token_embedding, self.positional_embedding, self.cls_emb],
            *[[block] for block in blocks[:-1]],
            [blocks[-1], self.ln_final],
        ]
        if self.text_projection is not None:
            groups.append([self.text_projection])
        unlock_last(groups, unlocked_layers, keep_norms=not freeze_layer_norm)

    @unscripted
    def _checkpoint_text(self, enable: bool) -> None:
        self.transformer.grad_checkpointing = enable

    @unscripted
    def _check_text(self, text: Tensor) -> None:
        most = self.context_length
        least = most if self._reads_padding() else 1
        if text.ndim != 2 or not least <= text.shape[1] <= most:
            lengths = f"L from 1 up to {most}" if least == 1 else f"L = {most} (it reads the padding, too)"
            raise ShapeError(f"the text tower takes token ids (B, L), {lengths}; found {tuple(text.shape)}")

    @unscripted
    def _reads_padding(self) -> bool:
        """Whether a shorter row of the same caption has other features, which would look as good (SigLIP's)."""
        sees_all = self.attn_mask is None and not self.use_pad_mask
        return self.cls_emb is None and (sees_all or self.text_pool_type == "last")


class TextTransformer(TextTower):
    """Transformer over token ids, pooled at the end-of-text token (Radford et al. 2021, section 2.4).

    Args:
        cfg: widths, depth and pooling of the tower.
        embed_dim: D; None leaves out the projection.
        quick_gelu: the activation of OpenAI's weights.
        use_pad_mask: in a tower that is not causal, attend to no padding.
        correct_cls_mask: see `_padding_mask`.
    """

    def __init__(
        self,
        cfg: CLIPTextCfg,
        embed_dim: int | None,
        quick_gelu: bool = False,
        use_pad_mask: bool = False,
        correct_cls_mask: bool = False,
    ) -> None:
        super().__init__()
        self._init_text(cfg, embed_dim, quick_gelu, use_pad_mask, correct_cls_mask)
        self.width, self.heads, self.output_dim = cfg.width, cfg.heads, embed_dim
        self.pool_type, self.eos_id = cfg.pool_type, cfg.eos_id
        self.output_tokens = cfg.output_tokens

    def forward(self, text: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Encode captions.

        Args:
            text: (B, L) int64 token ids, padded after the end-of-text token.

        Returns:
            (B, D) features, not normalised; with `output_tokens` also the tokens (B, L, C).

        Raises:
            ShapeError: if L exceeds `context_length`, or is less in a tower that reads the padding, too.
        """
        if not torch.jit.is_scripting() and not self.output_tokens and may_trim():
            text = self.trim(text)
        pooled, tokens = self._encode(text)
        if self.output_tokens:
            return pooled, tokens
        return pooled

    @unscripted
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
        """Encode captions and keep the tokens of chosen blocks.

        Args:
            text: (B, L) token ids; all L positions are computed.
            indices: which blocks, see `take_indices`.
            stop_early: with `intermediates_only`, compute nothing past the last block chosen.
            normalize_intermediates: apply the tower's final norm to them.
            intermediates_only: leave out `text_features`.
            output_fmt: "NLC", tokens (B, L, C), is the only one.
            output_extra_tokens: also give the class tokens (B, 1, C), where the tower has them.

        Returns:
            `text_intermediates`, `text_intermediates_suffix` if asked for, and `text_features` (B, D) unless left out.
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

    @unscripted
    def lock(self, unlocked_layers: int = 0, freeze_layer_norm: bool = True) -> None:
        """Freeze the tower but for its last groups: embeddings, each block, projection.

        Args:
            unlocked_layers: how many groups stay trainable, from the end; the last block goes with the final norm.
            freeze_layer_norm: False leaves the layer norms of the frozen groups trainable.
        """
        self._lock_text(unlocked_layers, freeze_layer_norm)

    @unscripted
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        self._checkpoint_text(enable)

    @unscripted
    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that weight decay should pass over, besides vectors and scalars."""
        return {"positional_embedding"} | ({"cls_emb"} if self.cls_emb is not None else set())
